"""How long a refused client should wait: until a place is expected, from how fast requests finish now."""

from collections import deque

WINDOW = 30.0  # seconds
SHORTEST, LONGEST = 0.1, 60.0  # seconds


class CompletionRate:
    """Times of recent completions, and since when there has been work without a pause."""

    def __init__(self) -> None:
        self._finished: deque[float] = deque(maxlen=256)
        self._busy_since: float | None = None

    def started(self, now: float) -> None:
        """A request was accepted."""
        if self._busy_since is None:
            self._busy_since = now

    def finished(self, now: float, *, idle: bool) -> None:
        """A request ended; `idle`: it was the last one."""
        self._finished.append(now)
        if idle:
            self._busy_since = None

    def expected_wait(self, now: float) -> float:
        """Seconds until the next place is free: the mean time between completions while there was work."""
        begin = max(now - WINDOW, self._busy_since if self._busy_since is not None else now)
        if len(self._finished) == self._finished.maxlen:
            begin = max(begin, self._finished[0])
        completions = sum(1 for time in self._finished if time >= begin)
        return min(max((now - begin) / max(completions, 1), SHORTEST), LONGEST)
