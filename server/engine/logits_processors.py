"""Changes to a sequence's logits before sampling: penalties, biases and forbidden tokens, one object each.

A processor belongs to one sequence and changes only that sequence's row, so no other row's bits depend on it. The
sampler applies it, the scheduler advances it by the tokens that were appended.

Shapes: V vocabulary.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from server.engine.types import SamplingParams, ThinkingBudget

FORBIDDEN = -1e30  # no token with this logit is sampled where there is another
MIN_PLACES = 64  # room for different tokens at first: most answers have no more


class LogitsProcessor(Protocol):
    """Changes the logits of one sequence's next token."""

    @property
    def is_active(self) -> bool:
        """Whether `apply` may still change anything; once false, it stays false and the processor is dropped."""
        ...

    def apply(self, logits_V: Tensor) -> None:
        """Change the logits in place."""
        ...

    def advance(self, token_ids: Sequence[int]) -> None:
        """Take note of tokens that were appended to the sequence."""
        ...


class RepetitionPenalty:
    """Makes tokens of the prompt and of the output less likely (arXiv 1909.05858)."""

    is_active = True

    def __init__(self, penalty: float, prompt_token_ids: Iterable[int]) -> None:
        self._penalty = penalty
        self._seen = set(prompt_token_ids)
        self._index: Tensor | None = None  # the seen tokens; kept, because a prompt may have thousands

    def apply(self, logits_V: Tensor) -> None:
        if self._index is None:
            self._index = token_index(self._seen, logits_V)
        old = logits_V[self._index]
        logits_V[self._index] = torch.where(old > 0, old / self._penalty, old * self._penalty)

    def advance(self, token_ids: Sequence[int]) -> None:
        new = set(token_ids) - self._seen
        self._seen |= new
        if new and self._index is not None:
            self._index = torch.cat([self._index, token_index(new, self._index)])


class OutputPenalty:
    """OpenAI's presence and frequency penalties: both count the tokens of the output alone."""

    is_active = True

    def __init__(self, presence: float, frequency: float) -> None:
        self._presence, self._frequency = presence, frequency
        self._places: dict[int, int] = {}  # of each token in the arrays, which have room for more
        self._tokens, self._counts = np.zeros(MIN_PLACES, np.int64), np.zeros(MIN_PLACES, np.float32)

    def apply(self, logits_V: Tensor) -> None:
        if used := len(self._places):
            index = torch.from_numpy(self._tokens[:used]).to(logits_V.device)
            penalties = torch.from_numpy(self._frequency * self._counts[:used] + self._presence).to(logits_V)
            logits_V.index_add_(0, index, penalties, alpha=-1)

    def advance(self, token_ids: Sequence[int]) -> None:
        for token_id in token_ids:
            place = self._places.setdefault(token_id, len(self._places))
            if place == len(self._tokens):
                self._tokens = np.concatenate([self._tokens, np.zeros_like(self._tokens)])
                self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
            self._tokens[place] = token_id
            self._counts[place] += 1


class LogitBias:
    """Adds a constant to the logits of some tokens."""

    is_active = True

    def __init__(self, biases: Sequence[tuple[int, float]]) -> None:
        self._token_ids, self._biases = zip(*biases, strict=True)

    def apply(self, logits_V: Tensor) -> None:
        biases = torch.tensor(self._biases, dtype=logits_V.dtype, device=logits_V.device)
        logits_V[token_index(self._token_ids, logits_V)] += biases

    def advance(self, token_ids: Sequence[int]) -> None:
        pass


class AllowedTokens:
    """Forbids all tokens but the given ones.

    With a number that is finite: where `MinTokens` forbids each allowed token, something can still be sampled.
    """

    is_active = True

    def __init__(self, token_ids: Sequence[int]) -> None:
        self._token_ids = token_ids

    def apply(self, logits_V: Tensor) -> None:
        allowed = token_index(self._token_ids, logits_V)
        kept = logits_V[allowed]
        logits_V.fill_(FORBIDDEN)
        logits_V[allowed] = kept

    def advance(self, token_ids: Sequence[int]) -> None:
        pass


class BadWords:
    """Forbids the last token of a sequence of tokens where the output ends with those before it."""

    is_active = True

    def __init__(self, words: Sequence[Sequence[int]]) -> None:
        self._words = [tuple(word) for word in words]
        self._tail: list[int] = []  # of the output, as long as the longest word without its last token
        self._max_length = max(len(word) for word in self._words) - 1

    def apply(self, logits_V: Tensor) -> None:
        forbidden = [word[-1] for word in self._words if self._ends_with(word[:-1])]
        if forbidden:
            logits_V[token_index(forbidden, logits_V)] = FORBIDDEN

    def advance(self, token_ids: Sequence[int]) -> None:
        self._tail = [*self._tail, *token_ids][-self._max_length :] if self._max_length else []

    def _ends_with(self, token_ids: tuple[int, ...]) -> bool:
        return not token_ids or tuple(self._tail[-len(token_ids) :]) == token_ids


class MinTokens:
    """Forbids the tokens that would end the sequence until it has `min_tokens` tokens of output."""

    def __init__(self, min_tokens: int, stop_token_ids: Collection[int]) -> None:
        self._missing = min_tokens
        self._stop_token_ids = stop_token_ids

    @property
    def is_active(self) -> bool:
        return self._missing > 0

    def apply(self, logits_V: Tensor) -> None:
        logits_V[token_index(self._stop_token_ids, logits_V)] = 2 * FORBIDDEN  # rather any other forbidden token

    def advance(self, token_ids: Sequence[int]) -> None:
        self._missing -= len(token_ids)


class ThinkingLimit:
    """Ends thinking that has had its tokens: forbids all tokens but the next of those that close it."""

    def __init__(self, budget: ThinkingBudget) -> None:
        self._budget = budget
        self._tail: tuple[int, ...] = ()
        self._left = budget.max_tokens if not budget.open else None  # None: thinking has not begun
        self._num_forced = 0
        self._has_ended = False

    @property
    def is_active(self) -> bool:
        return not self._has_ended

    def apply(self, logits_V: Tensor) -> None:
        if self._left == 0:
            logits_V.fill_(FORBIDDEN)
            logits_V[self._budget.forced[self._num_forced]] = 0.0

    def advance(self, token_ids: Sequence[int]) -> None:
        for token_id in token_ids:
            if not self._has_ended:
                self._advance(token_id)

    def _advance(self, token_id: int) -> None:
        budget = self._budget
        self._tail = (*self._tail, token_id)[-max(len(budget.open), len(budget.close)) :]
        if self._left is None:
            if self._tail[-len(budget.open) :] == budget.open:
                self._left = budget.max_tokens
        elif self._left == 0:
            self._num_forced += 1
            self._has_ended = self._num_forced == len(budget.forced)
        elif self._tail[-len(budget.close) :] == budget.close:
            self._has_ended = True
        else:
            self._left -= 1


def build_logits_processors(
    sampling: SamplingParams, prompt_token_ids: Iterable[int], eos_token_ids: frozenset[int]
) -> tuple[LogitsProcessor, ...]:
    """What the parameters ask for, in the order in which it is applied."""
    processors: list[LogitsProcessor] = []
    if sampling.repetition_penalty != 1.0:
        processors.append(RepetitionPenalty(sampling.repetition_penalty, prompt_token_ids))
    if sampling.presence_penalty or sampling.frequency_penalty:
        processors.append(OutputPenalty(sampling.presence_penalty, sampling.frequency_penalty))
    if sampling.logit_bias:
        processors.append(LogitBias(sampling.logit_bias))
    if sampling.allowed_token_ids:
        processors.append(AllowedTokens(sampling.allowed_token_ids))
    if sampling.bad_words:
        processors.append(BadWords(sampling.bad_words))
    if sampling.thinking_budget is not None:
        processors.append(ThinkingLimit(sampling.thinking_budget))
    if sampling.min_tokens:
        processors.append(MinTokens(sampling.min_tokens, eos_token_ids | sampling.stop_token_ids))
    return tuple(processors)


def token_index(token_ids: Iterable[int], like: Tensor) -> Tensor:
    """Token ids as an index tensor on the device of the logits."""
    return torch.tensor(list(token_ids), dtype=torch.int64, device=like.device)
