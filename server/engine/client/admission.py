"""Whether the engine takes another request, and when a refused client should come back."""

from collections import deque

from server.engine.client.base import QueueFullError

WINDOW = 30.0  # seconds over which completions are counted
MIN_WAIT, MAX_WAIT = 0.1, 60.0  # seconds


class AdmissionControl:
    """Bounds the number of unfinished requests, and measures the rate at which requests finish."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._unfinished = 0
        self._busy_since: float | None = None  # since when there has been at least one request
        self._completions: deque[float] = deque(maxlen=256)  # times

    @property
    def free_capacity(self) -> int:
        return self.capacity - self._unfinished

    def admit(self, now: float) -> None:
        """Count a new request. Raises QueueFullError if there are as many as allowed."""
        if self.free_capacity < 1:
            raise QueueFullError(self.expected_wait(now))
        self._unfinished += 1
        if self._busy_since is None:
            self._busy_since = now

    def release(self, now: float) -> None:
        """A request has ended."""
        self._unfinished -= 1
        self._completions.append(now)
        if not self._unfinished:
            self._busy_since = None

    def expected_wait(self, now: float) -> float:
        """Seconds until the next request is expected to end: the mean time between completions while busy."""
        start = max(now - WINDOW, self._busy_since if self._busy_since is not None else now)
        if len(self._completions) == self._completions.maxlen:
            start = max(start, self._completions[0])
        completions = sum(1 for time in self._completions if time >= start)
        return min(max((now - start) / max(completions, 1), MIN_WAIT), MAX_WAIT)
