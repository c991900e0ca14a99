"""Log-probabilities in the three shapes that clients know: of chats, of completions, and vLLM's of prompts."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from pydantic import BaseModel

from model.text.detokenizer import Detokenizer
from model.text.tokenizer import Tokenizer
from server.chat.answer import ChatResult
from server.engine.types import SamplingParams
from server.errors import InvalidRequestError
from server.generation.logprobs import DecodedLogprobs, DecodedToken, num_held
from server.generation.prompt import Prompt
from server.generation.stream import GenerationResult


def total_logprobs(results: Iterable[GenerationResult | ChatResult]) -> int:
    """How many log-probabilities answers and their prompts have."""
    return sum(num_held(result.prompt_logprobs) + num_held(result.logprobs) for result in results)


# Chat: one object per token


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(BaseModel):
    content: list[TokenLogprob]
    refusal: None = None


def chat_logprobs(logprobs: Sequence[DecodedLogprobs]) -> ChoiceLogprobs:
    return ChoiceLogprobs(content=[_token_logprob(entry) for entry in logprobs])


def _token_logprob(entry: DecodedLogprobs) -> TokenLogprob:
    chosen, *top = (
        {"token": token.text, "logprob": token.logprob, "bytes": list(token.data)}
        for token in (entry.chosen, *entry.top)
    )
    return TokenLogprob.model_validate({**chosen, "top_logprobs": top})


# Completions: four columns, one entry per token


class CompletionLogprobs(BaseModel):
    """`token_logprobs` and `top_logprobs` are null for a token that nothing precedes.

    The chosen token is always in its `top_logprobs`, with the same number as in `token_logprobs`.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class LogprobColumns:
    """Makes the columns of one choice, piece by piece: the text offset goes on from piece to piece."""

    def __init__(self, tokenizer: Tokenizer, prompt: Prompt, skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._of_prompt = tokenizer.stream(skip_special=False)
        self._of_answer = tokenizer.stream(skip_special_tokens, prompt_ids=prompt.token_ids, continues=True)
        self._offset = 0

    def of_prompt(self, entries: Sequence[DecodedLogprobs]) -> CompletionLogprobs:
        """The columns of the prompt's tokens, without a begin-of-text token that the client did not send."""
        if self._prompt.first_text_token > 0:
            return self._columns(entries[self._prompt.first_text_token - 1 :], self._of_prompt)
        first = self._prompt.token_ids[0]
        decoded = DecodedLogprobs(DecodedToken(first, self._tokenizer.token_bytes(first), None))
        return self._columns([decoded, *entries], self._of_prompt)

    def of_answer(self, entries: Sequence[DecodedLogprobs]) -> CompletionLogprobs:
        return self._columns(entries, self._of_answer)

    def _columns(self, entries: Sequence[DecodedLogprobs], detokenizer: Detokenizer) -> CompletionLogprobs:
        offsets = []
        for entry in entries:
            offsets.append(self._offset)
            self._offset += len(detokenizer.push((entry.chosen.token_id,)))
        return CompletionLogprobs(
            tokens=[entry.chosen.text for entry in entries],
            token_logprobs=[entry.chosen.logprob for entry in entries],
            top_logprobs=[_top(entry) for entry in entries],
            text_offset=offsets,
        )


def joined(first: CompletionLogprobs, second: CompletionLogprobs) -> CompletionLogprobs:
    return CompletionLogprobs(
        tokens=first.tokens + second.tokens,
        token_logprobs=first.token_logprobs + second.token_logprobs,
        top_logprobs=first.top_logprobs + second.top_logprobs,
        text_offset=first.text_offset + second.text_offset,
    )


def _top(entry: DecodedLogprobs) -> dict[str, float] | None:
    if entry.chosen.logprob is None:
        return None
    top: dict[str, float] = {}
    for token in (*entry.top, entry.chosen):
        if token.logprob is not None:
            top.setdefault(token.text, token.logprob)
    return top


# Prompts: one object per token, by token id


class PromptLogprob(BaseModel):
    """`rank` is null for a token that is not among the alternatives that were asked for."""

    logprob: float
    rank: int | None
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]


def with_prompt_logprobs(sampling: SamplingParams, top: int | None, *, stream: bool) -> SamplingParams:
    """Ask for the `top` likeliest tokens at each place of the prompt, if not None.

    The engine has one number of alternatives for prompt and answer, so an endpoint limits those of the answer to what
    was asked for (`server.generation.logprobs.limited`). Raises InvalidRequestError for a stream.
    """
    if top is None:
        return sampling
    if stream:
        raise InvalidRequestError(
            "prompt_logprobs are not part of streams; set stream to false.", param="prompt_logprobs"
        )
    return replace(sampling, prompt_logprobs=True, logprobs=max(top, sampling.logprobs or 0))


def prompt_logprobs(prompt: Prompt, result: GenerationResult | ChatResult, top: int | None) -> PromptLogprobs | None:
    """One entry for each token of the prompt: the token itself and the `top` likeliest, by token id.

    Null for the first, which nothing precedes. None if they were not asked for.
    """
    if top is None:
        return None
    missing: PromptLogprobs = [None] * (len(prompt.token_ids) - len(result.prompt_logprobs))
    return [*missing, *(_by_token_id(entry, top) for entry in result.prompt_logprobs)]


def _by_token_id(entry: DecodedLogprobs, top: int) -> dict[str, PromptLogprob]:
    ranks = {token.token_id: rank for rank, token in enumerate(entry.top, 1)}
    tokens = (entry.chosen, *entry.top[:top])
    return {str(token.token_id): _prompt_logprob(token, ranks.get(token.token_id)) for token in tokens}


def _prompt_logprob(token: DecodedToken, rank: int | None) -> PromptLogprob:
    return PromptLogprob(logprob=token.known_logprob, rank=rank, decoded_token=token.text)
