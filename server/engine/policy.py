"""How the prompt tokens of a step are shared out: in which order, and how many.

A step that computes a part of a prompt takes longer than one that only decodes, and every running stream waits for it.
The times of earlier steps show how many tokens keep such a step below a second, and long prompts below a multiple of a
pure decode step.
"""

import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

from server.engine.config import EngineConfig
from server.engine.fair_share import FairShare
from server.engine.sequence import Sequence

MAX_STEP_SECONDS = 1.0  # about the longest step while others decode: the time between two tokens of a stream
MIN_PREFILL_TOKENS = 64  # per step: even on a slow machine, prompts must make progress
MIN_LONG_PREFILL_TOKENS = 16  # the same of long prompts
FIRST_LONG_PREFILL_TOKENS = 64  # of long prompts per step, until both kinds of steps have been measured
SHORT_STEP_PREFILL_TOKENS = 192  # a short step takes as long as one with such a prompt alone

KEEP = 0.9  # of the weight of a measured step, for each step after it
SWEEPS = 3  # of coordinate descent after a step: the coefficients of before are a good start
MAX_SPEEDUP = 4.0  # of a step over what was expected of it, that is believed


@dataclass(slots=True)
class PrefillBudget:
    """Prompt tokens that a step may still compute; at most `long_tokens` of them for prompts that may delay others.

    Those are prompts that are less urgent than what decodes, and long ones that are not more urgent. `decode_priority`
    is that of the most urgent decoding sequence.
    """

    tokens: int
    long_tokens: int
    long_prefill_token_threshold: int
    decode_priority: int = 0

    def available(self, sequence: Sequence) -> int:
        return min(self.tokens, self.long_tokens) if self._may_delay(sequence) else self.tokens

    def take(self, sequence: Sequence, count: int) -> None:
        self.tokens -= count
        if self._may_delay(sequence):
            self.long_tokens -= count

    def add(self, other: "PrefillBudget") -> None:
        self.tokens += other.tokens
        self.long_tokens += other.long_tokens

    def split(self) -> "tuple[PrefillBudget, PrefillBudget]":
        """Two halves of the budget; what cannot be halved goes to the first."""
        tokens, long_tokens = self.tokens // 2, self.long_tokens // 2
        first = replace(self, tokens=self.tokens - tokens, long_tokens=self.long_tokens - long_tokens)
        return first, replace(self, tokens=tokens, long_tokens=long_tokens)

    def at_most(self, tokens: int) -> "PrefillBudget":
        """The same budget with at most that many tokens."""
        return replace(self, tokens=min(self.tokens, tokens))

    def _may_delay(self, sequence: Sequence) -> bool:
        is_long = sequence.prompt_len > self.long_prefill_token_threshold
        return (sequence.priority, is_long) > (self.decode_priority, False)


@dataclass(frozen=True, slots=True)
class PrefillTurn:
    """Steps in a row that compute only prompts of one tenant, and share the prompt tokens of one step.

    They are several where the chunks of a prompt end because a state is to be saved.
    """

    tenant: str
    budget: PrefillBudget

    def own(self, sequences: list[Sequence]) -> list[Sequence]:
        """Those of the tenant that are as urgent as what decodes."""
        urgent = self.budget.decode_priority
        return [sequence for sequence in sequences if sequence.tenant == self.tenant and sequence.priority <= urgent]

    def take(self, scheduled: list[Sequence]) -> None:
        for sequence in scheduled:
            self.budget.take(sequence, sequence.num_scheduled_tokens)


class StepTimes:
    """A linear model of the seconds of a step: of each prompt token, of each decoding sequence, and of the rest.

    Fitted by least squares with weights that fall from step to step. Errors are relative to the time of a step, so a
    step that was held up counts little. Coordinate descent (see e.g. Friedman, Hastie and Tibshirani, "Regularization
    Paths for Generalized Linear Models via Coordinate Descent", 2010) keeps the coefficients from being negative, and
    leaves as it was what recent steps do not show: that of a prompt token is not changed by steps without prompts. What
    could belong to several coefficients goes to the first, so steps are rather too short than too long.
    """

    def __init__(self) -> None:
        self._coefficients = [0.0, 0.0, 0.0]
        self._products = [[0.0] * 3 for _ in range(3)]  # weighted sums of products of two features
        self._sums = [0.0] * 3  # and of features: each step counts as 1, and its features in relation to its seconds

    def observe(self, seconds: float, *, decodes: int, prefill_tokens: int) -> None:
        """Record the time of a step with this number of decoding sequences and prompt tokens."""
        amounts = (prefill_tokens, 1, decodes)
        seconds = max(seconds, sum(map(float.__mul__, self._coefficients, map(float, amounts))) / MAX_SPEEDUP)
        if seconds <= 0:
            return
        features = [amount / seconds for amount in amounts]
        for products, feature in zip(self._products, features, strict=True):
            products[:] = [KEEP * known + feature * other for known, other in zip(products, features, strict=True)]
        self._sums = [KEEP * known + feature for known, feature in zip(self._sums, features, strict=True)]
        shown = [index for index, amount in enumerate(amounts) if amount]
        for index in SWEEPS * shown:
            self._descend(index)

    def decode_step(self, decodes: int) -> float:
        """Seconds of a step without prompts; 0 until it is known."""
        _, rest, each = self._coefficients
        return each * decodes + rest

    def prefill_step(self, tokens: int) -> float:
        """Seconds of a step with prompt tokens alone; 0 until it is known."""
        each, rest, _ = self._coefficients
        return each * tokens + rest

    def prefill_tokens(self, seconds: float) -> int:
        """How many prompt tokens add these seconds to a step; as many as possible while that is not known."""
        each = self._coefficients[0]
        return int(min(seconds / each, sys.maxsize)) if each else sys.maxsize

    def _descend(self, index: int) -> None:
        """Set one coefficient to its best value, given the others."""
        products = self._products[index]
        excess = sum(map(float.__mul__, products, self._coefficients)) - self._sums[index]
        self._coefficients[index] = max(self._coefficients[index] - excess / products[index], 0.0)


class SchedulingPolicy:
    """Half of a step's prompt tokens go to prompts in order of arrival, half to those with the fewest tokens left.

    The second half keeps short prompts from waiting behind long ones. The first half bounds how long a prompt can be
    overtaken: it gets at least half of what first come, first served would give it. All this is among prompts of the
    same priority and tenant. Less urgent ones get what is left; tenants take turns, see fair_share.py.
    """

    def __init__(self, config: EngineConfig, clock: Callable[[], float]) -> None:
        self._config = config
        self._times = StepTimes()
        self.fair_share = FairShare(clock)

    def observe(self, seconds: float, *, decodes: int, prefill_tokens: int) -> None:
        """Record how long a step took."""
        self._times.observe(seconds, decodes=decodes, prefill_tokens=prefill_tokens)

    def budget(self, decodes: list[Sequence], sequences: Collection[Sequence]) -> PrefillBudget:
        """The prompt tokens of a step in which `decodes` decode, with their tokens scheduled.

        A step takes about MAX_STEP_SECONDS at most. It is short while a tenant that has few of all `sequences` may send
        another, which would wait for the end of the step: then its first token takes at most about twice as long as it
        would alone.
        """
        budget = self._budget(decodes)
        if decodes:
            budget = budget.at_most(self._tokens_within(MAX_STEP_SECONDS, decodes))
        if self.fair_share.may_be_joined(sequences):
            budget = budget.at_most(self._tokens_within(self._times.prefill_step(SHORT_STEP_PREFILL_TOKENS), decodes))
        return budget

    def budget_of_turn(self, decodes: list[Sequence]) -> PrefillBudget:
        """The prompt tokens of a tenant's turn, for which `decodes` wait."""
        budget = self._budget(decodes)
        return budget.at_most(self._tokens_within(MAX_STEP_SECONDS, [])) if decodes else budget

    def share_out(self, budget: PrefillBudget, sequences: list[Sequence]) -> Iterator[tuple[Sequence, PrefillBudget]]:
        """The sequences that may take tokens, each with the budget it takes them from.

        `sequences` are in queue order; each comes up twice. The caller takes the tokens before it asks for the next.
        """
        first, second = budget.split()
        yield from _while_tokens_are_left(self.fair_share.order(sequences), first)
        second.add(first)
        shortest_first = sorted(sequences, key=_priority_and_tokens_left)
        yield from _while_tokens_are_left(self.fair_share.order(shortest_first), second)

    def _budget(self, decodes: list[Sequence]) -> PrefillBudget:
        config = self._config
        tokens = config.max_num_batched_tokens - sum(sequence.num_scheduled_tokens for sequence in decodes)
        long_tokens = tokens
        if decodes and config.max_decode_slowdown is not None:
            long_tokens = self._long_tokens((config.max_decode_slowdown - 1) * self._times.decode_step(len(decodes)))
        decode_priority = min((sequence.priority for sequence in decodes), default=0)
        return PrefillBudget(tokens, long_tokens, config.long_prefill_token_threshold, decode_priority)

    def _long_tokens(self, seconds: float) -> int:
        """Tokens of long prompts that make a step longer by this time."""
        tokens = self._times.prefill_tokens(seconds) if seconds else FIRST_LONG_PREFILL_TOKENS
        return max(MIN_LONG_PREFILL_TOKENS, tokens)

    def _tokens_within(self, seconds: float, decodes: list[Sequence]) -> int:
        """Prompt tokens with which a step takes about this time at most; some even if there is no time for them."""
        tokens = self._times.prefill_tokens(seconds - self._times.decode_step(len(decodes)))
        return max(MIN_PREFILL_TOKENS, tokens // MIN_PREFILL_TOKENS * MIN_PREFILL_TOKENS)


def _while_tokens_are_left(
    sequences: list[Sequence], budget: PrefillBudget
) -> Iterator[tuple[Sequence, PrefillBudget]]:
    for sequence in sequences:
        if not budget.tokens:
            return
        if budget.available(sequence):
            yield sequence, budget


def _priority_and_tokens_left(sequence: Sequence) -> tuple[int, int]:
    return sequence.priority, sequence.num_tokens_left
