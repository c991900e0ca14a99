"""From a request to an accepted generation: prompt -> token ids -> length check -> submit. Knows nothing of HTTP."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from model.loading.pooling import Pooling
from model.loading.quality import Quality
from model.text.chat_formats.chat_format import ChatFormat, PromptEnd
from model.text.chat_formats.detection import chat_format
from model.text.chat_formats.tagged_format import TaggedFormat
from model.text.chat_template import (
    DEFAULT_RENDER_OPTIONS,
    ChatTemplate,
    KnownPrefix,
    RenderOptions,
    UnusableChatTemplate,
    nothing_known,
    thinking_switch,
)
from model.text.task_prompts import Message, TaskPrompts
from model.text.tokenizer import Tokenizer
from server.engine.client.base import DeadlineError, EngineClient, EngineClosedError, QueueFullError
from server.engine.grammar.compiler import CompiledGrammar, GrammarCompiler
from server.engine.types import (
    DEFAULT_ROUTING,
    EmbedRequest,
    EngineRequest,
    GenerateRequest,
    RoutingParams,
    SamplingParams,
    SchedulingParams,
    ScoreRequest,
)
from server.errors import (
    DeadlineUnreachableError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    PromptTooLongError,
    UnavailableError,
)
from server.generation.defaults import GenerationDefaults
from server.generation.grammar import AnswerGrammar, following
from server.generation.json_schema import SchemaError
from server.generation.model_facts import ModelFacts
from server.generation.prompt import Prompt
from server.generation.run_in_thread import LONG_TEXT, run_in_thread
from server.generation.segments import SegmentedGeneration, SegmentedPrompt
from server.generation.stream import Generation, GenerationObserver, TextOptions
from server.generation.tracing import with_spans

NEUTRAL = GenerationDefaults()
UNKNOWN = Quality()
UNKNOWN_FACTS = ModelFacts()
DEFAULT_OPTIONS = TextOptions()
DEFAULT_SCHEDULING = SchedulingParams()
_WITHOUT_THINKING = RenderOptions(variables={**thinking_switch(enabled=False), "thinking": False})


class GenerationService:
    """Starts generations on one model. All endpoints use it; it knows nothing of HTTP."""

    def __init__(
        self,
        engine: EngineClient,
        tokenizer: Tokenizer,
        chat_template: ChatTemplate | UnusableChatTemplate | None,
        prompts: TaskPrompts,
        *,
        model_id: str,
        aliases: Sequence[str] = (),
        adapters: Sequence[str] = (),
        max_model_len: int,
        observer: GenerationObserver,
        defaults: GenerationDefaults = NEUTRAL,
        plain_text_defaults: GenerationDefaults | None = None,
        quality: Quality = UNKNOWN,
        pooling: Pooling | None = None,
        facts: ModelFacts = UNKNOWN_FACTS,
        grammars: GrammarCompiler | None = None,
    ) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.prompts = prompts
        self.model_id = model_id
        self.served_names = (model_id, *aliases)
        self.adapters = tuple(adapters)
        self.max_model_len = max_model_len
        self.defaults = defaults
        self.plain_text_defaults = plain_text_defaults or defaults
        self.quality = quality
        self.pooling = pooling
        self.facts = facts
        self.created = int(time.time())
        self.chat_template = chat_template
        self.chat_format = _chat_format(chat_template, tokenizer)
        self._grammars = grammars
        self._observer = observer
        self._num_begin_tokens = len(tokenizer.encode_document(""))

    def check_model(self, name: str | None) -> None:
        """Raise ModelNotFoundError unless `name` is one of the served names, an adapter, or left out."""
        served = (*self.served_names, *self.adapters)
        if name is not None and name not in served:
            raise ModelNotFoundError(name, "', '".join(served))

    def adapter_of(self, name: str | None) -> str | None:
        """The LoRA adapter of that model name; None for the model itself. Raises what `check_model` raises."""
        self.check_model(name)
        return name if name in self.adapters else None

    def check_length(self, prompt: Prompt) -> None:
        """Raise PromptTooLongError for a prompt that is longer than the context."""
        self._fit(prompt, SamplingParams(max_tokens=0))

    def check_token_ids(self, token_ids: Sequence[int], param: str) -> None:
        """Raise InvalidRequestError unless every id is one of the vocabulary."""
        size = self.tokenizer.vocab_size
        wrong = next((token_id for token_id in token_ids if not 0 <= token_id < size), None)
        if wrong is not None:
            raise InvalidRequestError(
                f"{wrong} is not a token id: this model has the ids 0 to {size - 1}.", param=param
            )

    async def chat_prompt(
        self,
        messages: Sequence[Message],
        options: RenderOptions = DEFAULT_RENDER_OPTIONS,
        known: Callable[[str], KnownPrefix | None] = nothing_known,
    ) -> Prompt:
        """Render a conversation. The messages of a task come from `prompts`, a client's through `prompts.chat`.

        Raises InvalidRequestError for messages that the chat template refuses. A request may need a thousand prompts,
        so other tasks of the event loop run first.
        """
        await asyncio.sleep(0)
        if len(str(options.tools)) + sum(len(str(message)) for message in messages) > LONG_TEXT:
            return await asyncio.to_thread(self._render, messages, options, known)
        return self._render(messages, options, known)

    async def task_prompt(self, messages: Sequence[Message]) -> Prompt:
        """The prompt of a task, whose answer begins without reasoning; what the model reasons all the same is left out.

        Raises what `chat_prompt` raises.
        """
        prompt = await self.chat_prompt(messages, _WITHOUT_THINKING)
        start = self.chat_format.content_start(PromptEnd(prompt.text))
        token_ids = (
            (*prompt.token_ids, *self.tokenizer.encode(start, allow_special=True)) if start else prompt.token_ids
        )
        parser = self.chat_format.content_parser(PromptEnd(prompt.text + start))
        return replace(prompt, token_ids=token_ids, text=prompt.text + start, content_parser=parser)

    async def compile_grammar(self, grammar: AnswerGrammar, after: str | None = None) -> CompiledGrammar:
        """The grammar of a request for SamplingParams, compiled in a thread before the request is started.

        `after`: what comes before the answer, see `grammar.following`. Raises InvalidRequestError that names the place
        for a grammar that is wrong, too large or too complex.
        """
        if self._grammars is None:
            raise InvalidRequestError("Answers cannot be constrained here.", param=grammar.param)
        try:
            text = await asyncio.to_thread(_grammar_text, grammar, after)
            return await self._compile(text, grammar)
        except SchemaError as error:
            param = f"{grammar.param}.{error.place}" if error.place else grammar.param
            raise InvalidRequestError(f"{param}: {error}.", param=param) from error

    async def _compile(self, text: str, grammar: AnswerGrammar) -> CompiledGrammar:
        assert self._grammars is not None
        try:
            return await asyncio.wrap_future(self._grammars.start(text))
        except ValueError as error:
            raise await asyncio.to_thread(grammar.explain, str(error), self._grammars.validate) from error

    def template_uses(self, variable: str) -> bool:
        """Whether the chat template names a variable."""
        return self.chat_template is not None and self.chat_template.uses(variable)

    async def text_prompt(self, text: str, *, parse_special: bool = False, add_special_tokens: bool = True) -> Prompt:
        """Plain text to continue, as in training: after the token that begins a document, if the model has one.

        `parse_special`: special tokens in the text are tokens, not their characters. Without `add_special_tokens`
        nothing is put before the text. Raises InvalidRequestError for a prompt without any token.
        """
        token_ids = await self.encode(text, parse_special=parse_special, add_special_tokens=add_special_tokens)
        if not token_ids:
            raise InvalidRequestError("The prompt is empty, and this model has no token to begin with.", param="prompt")
        first_text_token = self._num_begin_tokens if add_special_tokens else 0
        return Prompt(tuple(token_ids), first_text_token=first_text_token, continues_text=True)

    async def encode(self, text: str, *, parse_special: bool, add_special_tokens: bool) -> list[int]:
        """The token ids of a text, see `text_prompt`; none for an empty text of a model without such a token."""
        encode = partial(
            self.tokenizer.encode_document, allow_special=parse_special, add_special_tokens=add_special_tokens
        )
        return await run_in_thread(encode, text)

    def word_token_ids(self, words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        """The token ids of each word, at the beginning of a text and after a space."""
        spellings = (spelling for word in words for spelling in (word, f" {word.lstrip()}"))
        encoded = (tuple(self.tokenizer.encode(spelling)) for spelling in spellings)
        return tuple(dict.fromkeys(token_ids for token_ids in encoded if token_ids))

    def token_prompt(self, token_ids: Sequence[int], param: str = "prompt") -> Prompt:
        """Token ids as given. Raises InvalidRequestError for ids outside the vocabulary."""
        self.check_token_ids(token_ids, param)
        return Prompt(tuple(token_ids), continues_text=True)

    def prompt_text(self, prompt: Prompt) -> str:
        """The text of a prompt with its special tokens, but without a begin-of-text token that was put before it."""
        return self.tokenizer.decode(prompt.token_ids[prompt.first_text_token :], skip_special=False)

    def start(
        self,
        request_id: str,
        prompt: Prompt | SegmentedPrompt,
        sampling: SamplingParams,
        options: TextOptions = DEFAULT_OPTIONS,
        scheduling: SchedulingParams = DEFAULT_SCHEDULING,
        *,
        routing: RoutingParams = DEFAULT_ROUTING,
        adapter: str | None = None,
        follow_up: bool = False,
    ) -> Generation | SegmentedGeneration:
        """Submit to the engine. `sampling.max_tokens` is cut to what the context holds.

        A `follow_up` belongs to a client's request of which a part was accepted before.

        Raises PromptTooLongError, OverloadedError (queue full) or UnavailableError (draining). A generation that was
        returned ends with exactly one terminal event.
        """

        def submit(request_id: str, prompt: Prompt, follow_up: bool) -> Generation:
            request = _request(request_id, prompt, self._fit(prompt, sampling), scheduling, routing, adapter)
            return self._submit(request, prompt, options, follow_up)

        try:
            if isinstance(prompt, Prompt):
                return submit(request_id, prompt, follow_up)
            for segment in prompt.segments:
                self._fit(segment.prompt, sampling)  # report a segment that is too long before any work is done
            return SegmentedGeneration(
                prompt,
                lambda index, part: submit(f"{request_id}-{index}", part, follow_up or index > 0),
            )
        except OverloadedError as error:
            self._observer.rejected(error.code)
            raise

    def _submit(self, request: EngineRequest, prompt: Prompt, options: TextOptions, follow_up: bool) -> Generation:
        if prompt.content_parser is not None:
            options = replace(options, kept_special_tokens=self.chat_format.marker_ids)
        try:
            return Generation(
                request,
                options,
                continues_text=prompt.continues_text,
                content_parser=prompt.content_parser,
                follow_up=follow_up,
                engine=self.engine,
                tokenizer=self.tokenizer,
                observer=with_spans(self._observer, request, request.adapter or self.model_id),
            )
        except DeadlineError as late:
            raise DeadlineUnreachableError(retry_after=late.retry_after) from late
        except QueueFullError as full:
            raise OverloadedError(
                "The queue is full; try again after the time in Retry-After.", retry_after=full.retry_after
            ) from full
        except EngineClosedError as closed:
            self._observer.rejected("draining")
            raise UnavailableError("The server is stopping and takes no new requests.", retry_after=1) from closed
        except ValueError as error:
            raise InvalidRequestError(f"The model cannot serve this: {error}.") from error

    def _render(
        self, messages: Sequence[Message], options: RenderOptions, known: Callable[[str], KnownPrefix | None]
    ) -> Prompt:
        if self.chat_template is None:
            raise InvalidRequestError("This model has no chat template; use /v1/completions.", param="messages")
        try:
            rendered = self.chat_template.render_ids(messages, self.tokenizer, options, known)
        except ValueError as error:
            raise InvalidRequestError(f"The messages cannot be rendered: {error}", param="messages") from error
        return Prompt(rendered.token_ids, rendered.boundaries, text=rendered.text)

    def _fit(self, prompt: Prompt, sampling: SamplingParams) -> SamplingParams:
        length = len(prompt.token_ids)
        room = self.max_model_len - length
        if room < min(1, sampling.max_tokens):
            self._observer.rejected("prompt_too_long")
            # LiteLLM looks for the first words, LangChain and Claude Code for "prompt is too long"
            raise PromptTooLongError(
                f"This model's maximum context length is {self.max_model_len} tokens, prompt and answer together, but "
                f"the prompt is too long: it has {length} tokens. Shorten it."
            )
        if sampling.max_tokens <= room:
            return sampling
        return replace(sampling, max_tokens=room, min_tokens=min(sampling.min_tokens, room))


def _chat_format(template: ChatTemplate | UnusableChatTemplate | None, tokenizer: Tokenizer) -> ChatFormat:
    if template is None:
        return TaggedFormat()
    tokens = tokenizer.special_tokens, tokenizer.added_tokens
    return chat_format(template.all_sources, *tokens, template.response_template)


def _grammar_text(grammar: AnswerGrammar, after: str | None) -> str:
    return grammar.text() if after is None else following(after, grammar.text())


def _request(
    request_id: str,
    prompt: Prompt,
    sampling: SamplingParams,
    scheduling: SchedulingParams,
    routing: RoutingParams,
    adapter: str | None,
) -> EngineRequest:
    """A request for new tokens, for a vector, or, where neither is wanted, for the scores of the prompt."""
    make: Callable[..., EngineRequest]
    if prompt.pooling is not None:
        make = partial(EmbedRequest, pooling=prompt.pooling)
    elif sampling.prompt_logprobs and not sampling.max_tokens:
        make = partial(ScoreRequest, num_alternatives=sampling.logprobs or 0)
    else:
        make = partial(GenerateRequest, sampling=sampling)
    return make(
        request_id,
        prompt.token_ids,
        boundaries=prompt.boundaries,
        arrival_time=time.monotonic(),
        cache_salt=prompt.cache_salt,
        scheduling=scheduling,
        routing=routing,
        adapter=adapter,
        snapshot_token_ids=prompt.snapshot_token_ids,
    )
