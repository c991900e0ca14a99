"""How fast a long prompt may be computed while others wait for their next token.

A step that computes a piece of a prompt takes longer than one that only decodes, and every running stream waits for it.
From the times of earlier steps follows how long a piece may be so that it stays below a multiple of a plain step.
"""

from dataclasses import dataclass

from server.engine.sequence import Sequence

WEIGHT = 0.25  # of the newest step in the running means
SMALLEST = 16  # tokens: what a prompt gets however slow it is, so that it comes to its end
FIRST = 64  # tokens, as long as nothing has been measured


@dataclass(slots=True)
class Pace:
    """Running means of seconds: of a step without prompts, and of a prompt's token on top of it.

    `stretch`: how many times as long as a plain step one with a piece of a long prompt may take.
    """

    stretch: float
    step_seconds: float | None = None
    token_seconds: float | None = None

    def observe(self, seconds: float, *, decodes: int, prefill_tokens: int) -> None:
        """Enter a step of so many sequences that decoded and tokens of prompts."""
        if not prefill_tokens:
            self.step_seconds = _mean(self.step_seconds, seconds)
        elif not decodes:
            self.token_seconds = _mean(self.token_seconds, seconds / prefill_tokens)
        elif self.step_seconds is not None:
            self.token_seconds = _mean(self.token_seconds, max(seconds - self.step_seconds, 0.0) / prefill_tokens)

    def piece(self) -> int:
        """Tokens of long prompts that a step may compute while others decode."""
        if self.step_seconds is None or self.token_seconds is None:
            return FIRST
        room = (self.stretch - 1) * self.step_seconds
        return max(SMALLEST, int(room / max(self.token_seconds, 1e-9)))


@dataclass(slots=True)
class PromptRoom:
    """Tokens of prompts that a step still takes; `long_tokens` of them may be of long prompts."""

    tokens: int
    long_tokens: int
    long_prompt: int

    def for_prompt(self, sequence: Sequence) -> int:
        return min(self.tokens, self.long_tokens) if self._is_long(sequence) else self.tokens

    def take(self, sequence: Sequence, count: int) -> None:
        self.tokens -= count
        if self._is_long(sequence):
            self.long_tokens -= count

    def _is_long(self, sequence: Sequence) -> bool:
        return sequence.prompt_len > self.long_prompt


def _mean(before: float | None, newest: float) -> float:
    return newest if before is None else before + WEIGHT * (newest - before)
