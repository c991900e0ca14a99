"""When refused clients are told to come back, so that there is a place for them then."""

import math
from collections import deque
from dataclasses import dataclass, field

WINDOW = 1.3  # seconds: the precision of Retry-After, and the time it takes a client to send again
MIN_PERIOD = 4.0  # seconds from the start of one window to that of the next
BURST = 0.6  # of the queue is filled by the requests of one window
MIN_BOOKED = 0.25  # of the requests of a window are those that were told to come, however many others there are
HORIZON = 3600  # seconds: the longest Retry-After, for which no place is kept


@dataclass(slots=True)
class _Window:
    start: float
    work: float = 0.0
    keys: set[int] = field(default_factory=set)


class ReturnWindows:
    """Windows of about a second, some seconds apart, in which refused clients are to return.

    A request that returns is recognized by its key, a hash of its content. A window takes all requests with one of its
    keys; new requests that look the same take places too, so a window is booked only as far as the rate of those leaves
    room. All times are monotonic seconds; work is in tokens.
    """

    def __init__(self) -> None:
        self._windows: deque[_Window] = deque()  # ascending; the first may be open

    def are_booked(self, now: float) -> bool:
        """Whether a window is open or still to come."""
        while self._windows and self._windows[0].start + WINDOW < now:
            self._windows.popleft()
        return bool(self._windows)

    def expect(self, key: int, now: float) -> bool:
        """Whether a request with this key was told to return now."""
        return self.are_booked(now) and self._windows[0].start <= now and key in self._windows[0].keys

    def know(self, key: int) -> bool:
        """Whether a request with this key was told to return at any time that is still to come."""
        return any(key in window.keys for window in self._windows)

    def book(
        self,
        key: int,
        work: float,
        now: float,
        *,
        queue_work: float,
        fill: float,
        service_rate: float,
        lookalike_rate: float,
    ) -> int:
        """Return the seconds until a request with so much work is to return.

        `queue_work`: what a full queue holds; `fill`: how much of it is taken. Rates are in work per second.
        """
        drain, burst = queue_work / service_rate, BURST * queue_work
        room = max(burst - lookalike_rate * WINDOW, MIN_BOOKED * burst)
        if not self.are_booked(now):
            self._windows.append(_Window(now + max(1.0, (fill - (1 - BURST)) * drain)))
        window = self._windows[-1]
        if window.start <= now or (window.work and window.work + work > room):
            window = _Window(window.start + max(MIN_PERIOD, BURST * drain))
            if window.start > now + HORIZON:
                return HORIZON
            self._windows.append(window)
        window.work += work
        window.keys.add(key)
        return math.ceil(window.start - now)
