"""Token ids and their log-probabilities as people read them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from server.engine.types import TokenLogprobs

LOWEST_LOGPROB = -9999.0  # JSON has no minus infinity


class TokenBytes(Protocol):
    """The one thing needed of a tokenizer here."""

    def token_bytes(self, token_id: int) -> bytes: ...


def token_text(data: bytes) -> str:
    """A token as text; one that is only part of a character is written `bytes:\\xe4\\xbd`."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


@dataclass(frozen=True, slots=True)
class DecodedToken:
    """One token and its log-probability (natural log; None where nothing precedes it)."""

    token_id: int
    data: bytes
    logprob: float | None

    @property
    def known_logprob(self) -> float:
        """The log-probability of a token that another one precedes."""
        assert self.logprob is not None, "nothing precedes this token"
        return self.logprob

    @property
    def text(self) -> str:
        """See `token_text`."""
        return token_text(self.data)


@dataclass(frozen=True, slots=True)
class DecodedLogprobs:
    """A token that was chosen (or given) and the likeliest ones at its place, likeliest first."""

    chosen: DecodedToken
    top: tuple[DecodedToken, ...] = ()


def num_held(entries: Iterable[DecodedLogprobs]) -> int:
    """How many log-probabilities these are, alternatives included."""
    return sum(1 + len(entry.top) for entry in entries)


def decode_logprobs(tokenizer: TokenBytes, logprobs: Sequence[TokenLogprobs]) -> tuple[DecodedLogprobs, ...]:
    """The engine's log-probabilities with the tokens' text."""
    if not logprobs:
        return ()

    def token(token_id: int, logprob: float) -> DecodedToken:
        return DecodedToken(token_id, tokenizer.token_bytes(token_id), max(logprob, LOWEST_LOGPROB))

    return tuple(
        DecodedLogprobs(token(entry.token_id, entry.logprob), tuple(token(*pair) for pair in entry.top))
        for entry in logprobs
    )


def limited(logprobs: Sequence[DecodedLogprobs], top: int | None) -> Sequence[DecodedLogprobs]:
    """At most `top` alternatives for each token; None: no entries at all."""
    if top is None:
        return ()
    return [replace(entry, top=entry.top[:top]) if len(entry.top) > top else entry for entry in logprobs]
