"""Beam search: several continuations of one prompt side by side; the answer is the likeliest of them as a whole.

For the scheduler and the model a beam is an ordinary sequence. Where sampling would append a token, a beam offers its
likeliest next tokens and waits. When all beams of the group have offered theirs, the group chooses the continuations.
Scores are sums of the model's log-probabilities, so the answer is as reproducible as they are.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import NamedTuple

from server.engine.sequence import Sequence
from server.engine.types import GenerateRequest, TokenLogprobs, TokenRouting

LENGTH_EXPONENT = 1.0  # of the length penalty (arXiv 1609.08144, equation 14): larger values favour longer answers


class Continuation(NamedTuple):
    """A beam that continues: the tokens of `parent` and one more."""

    parent: Sequence
    token: int
    score: float


class BeamAnswer(NamedTuple):
    """The tokens of a beam, with the routing from the first one that its request asks for on."""

    token_ids: tuple[int, ...]
    routing: tuple[TokenRouting, ...]


class BeamGroup:
    """All beams of one request, at most `width` at a time."""

    def __init__(self, request: GenerateRequest, ends: Collection[int]) -> None:
        self.request = request
        self.width = request.sampling.beam_width
        self.scores: dict[Sequence, float] = {}
        self._ends = frozenset(ends) | request.sampling.stop_token_ids
        self._offers: dict[Sequence, TokenLogprobs] = {}
        self._finished: list[tuple[float, BeamAnswer]] = []
        self._members = 0

    def member_request(self) -> GenerateRequest:
        """The request of one more beam, with enough alternatives to fill the group even if all ends are among them."""
        self._members += 1
        sampling = replace(self.request.sampling, logprobs=self.width + len(self._ends))
        return replace(self.request, request_id=f"{self.request.request_id}/{self._members}", sampling=sampling)

    def offer(self, sequence: Sequence, next_tokens: TokenLogprobs) -> None:
        """Record the likeliest next tokens of a beam."""
        self._offers[sequence] = next_tokens

    @property
    def is_complete(self) -> bool:
        """Whether all beams have offered their next tokens."""
        return len(self._offers) == len(self.scores)

    def choose(self) -> list[Continuation]:
        """The best continuations, best first; those that end are kept as finished. Empty: the search is over."""
        offered = [
            Continuation(sequence, token, self.scores[sequence] + logprob)
            for sequence, offer in self._offers.items()
            for token, logprob in offer.top
        ]
        self._offers.clear()
        kept: list[Continuation] = []
        for candidate in sorted(offered, key=lambda offered: -offered.score):  # stable: equal scores keep their order
            if len(kept) == self.width:
                break
            if candidate.token in self._ends:
                self._finish(candidate)
            else:
                kept.append(candidate)
        return kept if len(self._finished) < self.width else []

    def answer(self, chosen: list[Continuation]) -> tuple[BeamAnswer, bool]:
        """The answer, and whether it ends with a stop token; `chosen` are the continuations that do not."""
        if self._finished:
            return max(self._finished, key=lambda finished: finished[0])[1], True
        return _answer(chosen[0]), False

    def _finish(self, last: Continuation) -> None:
        if last.parent.num_output_tokens < self.request.sampling.min_tokens:
            return
        answer = _answer(last)
        self._finished.append((last.score / ((5 + len(answer.token_ids)) / 6) ** LENGTH_EXPONENT, answer))


def _answer(last: Continuation) -> BeamAnswer:
    parent = last.parent
    return BeamAnswer((*parent.tokens[parent.prompt_len :], last.token), tuple(parent.routing))
