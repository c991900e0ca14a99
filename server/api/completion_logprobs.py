"""Log-probabilities of /v1/completions: four columns, one entry per token."""

from collections.abc import Sequence

from pydantic import BaseModel

from model.text.detokenizer import Detokenizer
from model.text.tokenizer import Tokenizer
from server.generation.logprobs import DecodedLogprobs, DecodedToken
from server.generation.prompt import Prompt


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
