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

MAX_STEP_SECONDS = 1.0  # of a step that streams wait for, about
MIN_PREFILL_TOKENS = 64  # per step: prompts make progress on a slow machine too
MIN_LONG_PREFILL_TOKENS = 16  # the same of long prompts
FIRST_LONG_PREFILL_TOKENS = 64  # of long prompts per step, until both kinds of steps have been measured

FORGETTING_FACTOR = 0.9  # of the weight of a measured step, with each step after it
SWEEPS = 3  # of coordinate descent after each step, which starts at the coefficients of the step before
MAX_SPEEDUP = 2.0  # that one step can show, of a step and of a prompt token: their estimates fall no faster


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
    """A linear model of a step's duration: seconds per prompt token, a constant, and seconds per decoding sequence.

    Fitted by weighted least squares. The weight of a step falls by FORGETTING_FACTOR with each step after it. Errors
    are relative to the measured duration, so a step that was held up counts little. Coordinate descent (see e.g.
    Friedman, Hastie and Tibshirani, "Regularization Paths for Generalized Linear Models via Coordinate Descent", 2010)
    keeps the coefficients from being negative, and updates only those whose feature is not 0 in the newest step: steps
    without prompts do not change that of a prompt token. Of a time that several coefficients could explain, the first
    gets most, so steps are rather too short than too long.
    """

    def __init__(self) -> None:
        self._coefficients = [0.0, 0.0, 0.0]
        # The normal equations. Features are divided by the step's duration, so the target of each step is 1.
        self._gram = [[0.0] * 3 for _ in range(3)]  # weighted sums of the products of two features
        self._feature_sums = [0.0] * 3

    def observe(self, seconds: float, *, decodes: int, prefill_tokens: int) -> None:
        """Record the duration of a step with this number of decoding sequences and prompt tokens."""
        if seconds <= 0:
            return  # shorter than the clock can tell
        amounts = [float(prefill_tokens), 1.0, float(decodes)]
        seconds = max(seconds, _dot(self._coefficients, amounts) / MAX_SPEEDUP)
        self._add([amount / seconds for amount in amounts])
        lowest = self._coefficients[0] / MAX_SPEEDUP
        for index in SWEEPS * [index for index, amount in enumerate(amounts) if amount]:
            self._descend(index)
        self._coefficients[0] = max(self._coefficients[0], lowest)  # 0 would allow any number of prompt tokens

    def decode_step(self, decodes: int) -> float:
        """Seconds of a step without prompts; 0 until it is known."""
        _, constant, each = self._coefficients
        return each * decodes + constant

    def prefill_tokens(self, seconds: float) -> int:
        """How many prompt tokens add these seconds to a step; as many as possible while that is not known."""
        each = self._coefficients[0]
        return int(min(seconds / each, sys.maxsize)) if each else sys.maxsize

    def _add(self, features: list[float]) -> None:
        """Add a step to the normal equations."""
        for row, feature in zip(self._gram, features, strict=True):
            row[:] = [FORGETTING_FACTOR * known + feature * other for known, other in zip(row, features, strict=True)]
        self._feature_sums = [
            FORGETTING_FACTOR * known + feature for known, feature in zip(self._feature_sums, features, strict=True)
        ]

    def _descend(self, index: int) -> None:
        """Set one coefficient to its best value, given the others."""
        row = self._gram[index]
        excess = _dot(row, self._coefficients) - self._feature_sums[index]
        self._coefficients[index] = max(self._coefficients[index] - excess / row[index], 0.0)


def _dot(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


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

        If any decode, the step takes about MAX_STEP_SECONDS at most. It is short while a tenant that has few of all
        `sequences` may send another, which would wait for the end of the step.
        """
        budget = self._budget(decodes)
        if decodes:
            budget = budget.at_most(self._tokens_within(MAX_STEP_SECONDS, decodes))
        if self.fair_share.may_be_joined(sequences):
            budget = budget.at_most(MIN_PREFILL_TOKENS)
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
