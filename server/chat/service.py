"""From a chat request to accepted generations: messages -> prompt -> generations that are read as chat answers."""

from collections.abc import Awaitable, Callable, Sequence, Set
from dataclasses import replace
from functools import partial

from model.text.chat_formats.chat_format import PromptEnd
from model.text.chat_formats.fields import Schemas
from model.text.chat_template import THINKING_SWITCHES, RenderOptions
from server.chat.constraints import answer_grammar
from server.chat.generation import ChatGeneration, RoutedGeneration
from server.chat.known_answers import KnownAnswers
from server.chat.request import ChatRequest, Tool
from server.chat.template_messages import template_messages, template_tools, thinking_variables
from server.engine.types import SamplingParams, ThinkingBudget
from server.generation.admission import Admission
from server.generation.prompt import Prompt
from server.generation.service import DEFAULT_OPTIONS, GenerationService
from server.generation.stop_strings import StopStringMatcher
from server.generation.stream import RunningGeneration, TextOptions


class ChatService:
    """Starts chats on one model. All chat APIs use it; it knows nothing of HTTP."""

    def __init__(self, service: GenerationService) -> None:
        self._service = service
        self._format = service.chat_format
        self._known_answers = KnownAnswers(self._format)

    async def prompt(self, request: ChatRequest) -> Prompt:
        """Render the conversation. Raises InvalidRequestError for what the chat template refuses."""
        completed = replace(request, messages=self._known_answers.with_reasoning(request.messages))
        messages = template_messages(completed, self._format, self._service.template_uses)
        schemas = _schemas(request.tools)
        prompt = await self._service.chat_prompt(
            self._service.prompts.chat(messages),
            self._render_options(request),
            lambda text: self._known_answers.prefix(text, request.messages, schemas),
        )
        return prompt.salted(request.cache_salt)

    async def start(
        self,
        admission: Admission,
        request: ChatRequest,
        prompt: Prompt,
        sampling: SamplingParams,
        options: TextOptions = DEFAULT_OPTIONS,
        n: int = 1,
    ) -> list[ChatGeneration]:
        """Start `n` answers to a prompt that `prompt` made.

        Raises what Admission.start raises, and InvalidRequestError for a format of the answer that cannot be followed.
        """
        schemas = _schemas(request.callable_tools)
        end = PromptEnd(prompt.text, _continued(request))
        grammar = await answer_grammar(self._service, self._format, request, end)
        sampling = sampling if grammar is None else replace(sampling, grammar=grammar)
        if self._format.router(schemas, end) is None:
            return [ChatGeneration(generation) for generation in admission.start([prompt], sampling, options, n)]
        sampling = self._with_budget(sampling, request, end)
        if not sampling.ignore_eos:
            sampling = replace(sampling, stop_token_ids=sampling.stop_token_ids | self._format.end_ids)
        prompt = replace(prompt, snapshot_token_ids=self._format.snapshot_token_ids)
        raw = replace(options, stop=(), include_stop=False, kept_special_tokens=self._format.marker_ids)
        ends = {*self._service.tokenizer.eos_token_ids, *sampling.stop_token_ids}
        keep = partial(self._keep, prompt, schemas, ends)
        return [
            self._routed(generation, request, schemas, end, options, keep)
            for generation in admission.start([prompt], sampling, raw, n)
        ]

    async def _keep(
        self, prompt: Prompt, schemas: Schemas, ends: Set[int], call_ids: Sequence[str], token_ids: Sequence[int]
    ) -> None:
        """Keep an answer with calls for the next turn, without the token of `ends` that ended it."""
        answer = token_ids[:-1] if token_ids[-1] in ends else token_ids
        text = self._service.tokenizer.decode(answer, skip_special=False)
        await self._known_answers.add(call_ids, prompt, answer, text, schemas)

    def unknown_variables(self, request: ChatRequest) -> list[str]:
        """What the request asks of the chat template that the template does not know, by the name of the field."""
        uses, thinking = self._service.template_uses, request.thinking
        unknown = []
        if thinking.enabled and not any(map(uses, THINKING_SWITCHES)):
            unknown.append("enable_thinking")
        if thinking.effort not in (None, "", "none") and not uses("reasoning_effort"):
            unknown.append("reasoning_effort")
        return unknown

    def _routed(
        self,
        generation: RunningGeneration,
        request: ChatRequest,
        schemas: Schemas,
        end: PromptEnd,
        options: TextOptions,
        keep: Callable[[Sequence[str], Sequence[int]], Awaitable[None]],
    ) -> RoutedGeneration:
        router = self._format.router(schemas, end)
        assert router is not None
        stops = StopStringMatcher(options.stop, include_stop=options.include_stop)
        max_calls = None if request.parallel_tool_calls else 1
        return RoutedGeneration(generation, router, stops, max_calls=max_calls, on_calls=keep)

    def _with_budget(self, sampling: SamplingParams, request: ChatRequest, end: PromptEnd) -> SamplingParams:
        """The thinking budget in token ids, if the request has one and the model thinks."""
        markers, budget = self._format.thinking(end), request.thinking.budget
        if markers is None or budget is None:
            return sampling
        encode = partial(self._service.tokenizer.encode, allow_special=True)
        opened, close, forced = (tuple(encode(text)) for text in (markers.open, markers.close, markers.forced))
        return replace(sampling, thinking_budget=ThinkingBudget(budget, opened, close, forced))

    def _render_options(self, request: ChatRequest) -> RenderOptions:
        thinking = thinking_variables(request.thinking)
        tools = template_tools(request.callable_tools) if self._service.template_uses("tools") else ()
        return replace(request.render, variables=thinking | dict(request.render.variables), tools=tools)


def _schemas(tools: Sequence[Tool]) -> Schemas:
    return {tool.name: tool.parameters for tool in tools}


def _continued(request: ChatRequest) -> str | None:
    """The text that the answer goes on with, if it goes on with the last message."""
    return request.messages[-1].content if request.render.continue_final_message and request.messages else None
