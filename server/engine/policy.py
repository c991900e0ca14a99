"""How the prompt tokens of a step are shared out: in which order, and how many.

A step that computes a part of a prompt takes longer than one that only decodes, and every running stream waits for it.
The times of earlier steps show how many tokens keep such a step below a multiple of a pure decode step.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

from server.engine.config import EngineConfig
from server.engine.fair_share import FairShare
from server.engine.sequence import Sequence

WEIGHT = 0.25  # of the newest step in the running means
MIN_LONG_PREFILL_TOKENS = 16  # per step: even on a slow machine, a long prompt must make progress
FIRST_LONG_PREFILL_TOKENS = 64  # per step, until both kinds of steps have been measured
SHORT_PREFILL_TOKENS = 64  # per step, while another tenant may send a request


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


@dataclass(slots=True)
class StepTimes:
    """Running means in seconds: of a pure decode step, and of each prompt token that a step computes besides."""

    decode_step: float | None = None
    prefill_token: float | None = None

    def observe(self, seconds: float, *, decodes: int, prefill_tokens: int) -> None:
        """Record the time of a step with this number of decoding sequences and prompt tokens."""
        if not prefill_tokens:
            self.decode_step = _running_mean(self.decode_step, seconds)
        elif not decodes:
            if self.prefill_token is None:  # a first estimate: it includes reading the weights
                self.prefill_token = seconds / prefill_tokens
        elif self.decode_step is not None:
            prefill_seconds = max(seconds - self.decode_step, 0.0)
            self.prefill_token = _running_mean(self.prefill_token, prefill_seconds / prefill_tokens)

    def long_prefill_tokens(self, max_slowdown: float) -> int:
        """Tokens of long prompts that make a decode step at most about `max_slowdown` times as long."""
        if self.decode_step is None or self.prefill_token is None:
            return FIRST_LONG_PREFILL_TOKENS
        seconds = (max_slowdown - 1) * self.decode_step
        return max(MIN_LONG_PREFILL_TOKENS, int(seconds / max(self.prefill_token, 1e-9)))


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

        Steps are short while a tenant that has few of all `sequences` may send another, which would wait for the end
        of a step.
        """
        budget = self.budget_of_turn(decodes)
        return budget.at_most(SHORT_PREFILL_TOKENS) if self.fair_share.may_be_joined(sequences) else budget

    def budget_of_turn(self, decodes: list[Sequence]) -> PrefillBudget:
        """The prompt tokens of a tenant's turn, for which `decodes` wait."""
        config = self._config
        tokens = config.max_num_batched_tokens - sum(sequence.num_scheduled_tokens for sequence in decodes)
        long_tokens = tokens
        if decodes and config.max_decode_slowdown is not None:
            long_tokens = self._times.long_prefill_tokens(config.max_decode_slowdown)
        decode_priority = min((sequence.priority for sequence in decodes), default=0)
        return PrefillBudget(tokens, long_tokens, config.long_prefill_token_threshold, decode_priority)

    def share_out(self, budget: PrefillBudget, sequences: list[Sequence]) -> Iterator[tuple[Sequence, PrefillBudget]]:
        """The sequences that may take tokens, each with the budget it takes them from.

        `sequences` are in queue order; each comes up twice. The caller takes the tokens before it asks for the next.
        """
        first, second = budget.split()
        yield from _while_tokens_are_left(self.fair_share.order(sequences), first)
        second.add(first)
        shortest_first = sorted(sequences, key=_priority_and_tokens_left)
        yield from _while_tokens_are_left(self.fair_share.order(shortest_first), second)


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


def _running_mean(before: float | None, newest: float) -> float:
    return newest if before is None else before + WEIGHT * (newest - before)
