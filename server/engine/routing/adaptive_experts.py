"""How many experts per token new sequences get: fewer while many requests wait, if the operator allows it."""

from collections.abc import Callable
from dataclasses import dataclass

LOWER_AFTER = 0.5  # seconds of a long queue before each step down
RAISE_AFTER = 5.0  # seconds of a short queue before each step up
SHORT_QUEUE = 0.25  # of the bound: between this and the bound nothing changes


@dataclass(frozen=True, slots=True)
class ExpertRange:
    """`most` experts per token without load, `fewest` while more than `max_waiting` requests wait for long."""

    fewest: int
    most: int
    max_waiting: int

    def __post_init__(self) -> None:
        if not 1 <= self.fewest <= self.most:
            raise ValueError(f"adaptive_experts is {self.fewest}:{self.most}: give the smaller number first, from 1 on")


class AdaptiveExperts:
    """A number that follows the length of the queue with hysteresis. Sequences keep what they began with."""

    def __init__(self, experts: ExpertRange, clock: Callable[[], float]) -> None:
        self._range, self._clock = experts, clock
        self._since: float | None = None  # when the queue became as long, or as short, as it is
        self._was_long = False
        self.number = experts.most

    def update(self, num_waiting: int) -> None:
        """Adapt the number to how many requests wait now."""
        is_long = num_waiting > self._range.max_waiting
        if not is_long and num_waiting > SHORT_QUEUE * self._range.max_waiting:
            self._since = None
            return
        now = self._clock()
        if self._since is None or is_long != self._was_long:
            self._since, self._was_long = now, is_long
        if now - self._since < (LOWER_AFTER if is_long else RAISE_AFTER):
            return
        self._since = now
        step = -1 if is_long else 1
        self.number = min(max(self.number + step, self._range.fewest), self._range.most)
