"""Log-probabilities of /v1/completions: four columns, one entry per token."""

from collections.abc import Sequence

from pydantic import BaseModel

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

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._detokenizer = tokenizer.stream()
        self._offset = 0

    def prompt(self, prompt: Prompt, entries: Sequence[DecodedLogprobs]) -> list[DecodedLogprobs]:
        """The entries of a prompt's tokens, without a begin-of-text token that the client did not send."""
        if prompt.first_text_token > 0:
            return list(entries[prompt.first_text_token - 1 :])
        first = prompt.token_ids[0]
        return [DecodedLogprobs(DecodedToken(first, self._tokenizer.token_bytes(first), None)), *entries]

    def columns(self, entries: Sequence[DecodedLogprobs]) -> CompletionLogprobs:
        offsets = []
        for entry in entries:
            offsets.append(self._offset)
            self._offset += len(self._detokenizer.push((entry.chosen.token_id,)))
        return CompletionLogprobs(
            tokens=[entry.chosen.text for entry in entries],
            token_logprobs=[entry.chosen.logprob for entry in entries],
            top_logprobs=[_top(entry) for entry in entries],
            text_offset=offsets,
        )


def _top(entry: DecodedLogprobs) -> dict[str, float] | None:
    if entry.chosen.logprob is None:
        return None
    top: dict[str, float] = {}
    for token in (*entry.top, entry.chosen):
        if token.logprob is not None:
            top.setdefault(token.text, token.logprob)
    return top
