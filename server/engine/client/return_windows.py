"""When refused clients are told to come back, so that there is a place for them then."""

import math
from collections import deque
from dataclasses import dataclass, field
from itertools import islice

WINDOW = 1.3  # seconds: the precision of Retry-After, and the time it takes a client to send again
MIN_DISTANCE = 1.0  # seconds between the beginnings of two windows
BURST = 0.5  # of the queue is filled by the requests of one window
RESERVE = 0.25  # of the time between two windows, in case the queue is slower than was expected
PARTS = 4  # of a second: where many requests look the same, a window is for those that were refused in one part
TRAVEL = 0.15  # seconds: the time it takes most clients to send again
FEW_LOOKALIKES = 0.1  # of a burst
MIN_BOOKED = 0.25  # of the requests of a window are those that were told to come, however many others there are
REMEMBERED = 0.8  # of what is known of those who came when told to, from one window to the next
MAX_OPEN = 2  # windows at once, as one lasts longer than the shortest time from one to the next
HORIZON = 3600  # seconds: the longest Retry-After, for which no place is kept


@dataclass(frozen=True, slots=True)
class QueueForecast:
    """What is expected of the queue.

    `fill`: how much of it is taken, where 1 is full. A full queue empties in `drain` seconds, and there is room for a
    burst in `earliest` seconds at the earliest. `lookalike_rate`: how much of the queue is taken, per second, by new
    requests that look like refused ones.
    """

    fill: float
    drain: float
    earliest: float
    lookalike_rate: float

    @property
    def first_window(self) -> float:
        """Seconds until there is room for the requests of a window."""
        return max(MIN_DISTANCE, self.earliest, (self.fill - (1 - BURST)) * self.drain)

    @property
    def distance(self) -> float:
        """Seconds from one window to the next."""
        return max(MIN_DISTANCE, BURST * self.drain * (1 + RESERVE))

    @property
    def has_few_lookalikes(self) -> bool:
        return self.lookalike_rate * WINDOW < FEW_LOOKALIKES * BURST

    @property
    def room(self) -> float:
        """How much of the queue the booked requests of one window may take: lookalikes come in while it is open."""
        seconds_open = WINDOW if self.has_few_lookalikes else 1 / PARTS + TRAVEL
        return max(BURST - self.lookalike_rate * seconds_open, MIN_BOOKED * BURST)


@dataclass(slots=True)
class _Window:
    start: float
    part: int | None = None  # of the second, in which requests return; None: any
    size: float = 0.0  # share of the queue
    keys: set[int] = field(default_factory=set)
    num_booked: int = 0  # requests that were told to return
    num_returned: int = 0

    def is_for(self, now: float) -> bool:
        """Whether requests that are refused at this time return in this window: after whole seconds, that is."""
        return self.part in (None, _part(now))

    def expects(self, key: int, now: float) -> bool:
        return self.start <= now and key in self.keys and (self.is_for(now) or self.is_for(now - TRAVEL))

    def has_room(self, size: float, room: float) -> bool:
        """Also for one request that is larger than the room, if it has the window for itself."""
        return not self.size or self.size + size <= room


class ReturnWindows:
    """Windows of about a second in which refused clients are to return.

    A request that returns is recognized by its key, a hash of its content. A window takes all requests with one of its
    keys. New requests that look the same take places too, so a window is booked only as far as the rate of those leaves
    room. If there are many, each window is open for a part of a second alone, so that fewer of them come in.
    All times are monotonic seconds.
    """

    def __init__(self) -> None:
        self._windows: deque[_Window] = deque()  # ascending; the first may be open
        self._booked = self._returned = 1.0  # requests of past windows; recent ones count more

    def are_booked(self, now: float) -> bool:
        """Whether a window is open or still to come."""
        while self._windows and self._windows[0].start + WINDOW < now:
            self._close(self._windows.popleft())
        return bool(self._windows)

    @property
    def attendance(self) -> float:
        """The share of those that were told to return who did; 1 at first."""
        return self._returned / self._booked

    def welcome(self, key: int, now: float) -> bool:
        """Whether a request with this key was told to return now. If so, it counts as returned."""
        self.are_booked(now)
        windows = islice(self._windows, MAX_OPEN)
        window = next((window for window in windows if window.expects(key, now)), None)
        if window is not None:
            window.num_returned += 1
        return window is not None

    def know(self, key: int) -> bool:
        """Whether a request with this key was told to return at any time that is still to come."""
        return any(key in window.keys for window in self._windows)

    def book(self, key: int, size: float, now: float, forecast: QueueForecast) -> int:
        """Return the seconds until a request is to return that takes the share `size` of the queue."""
        window = self._window_with_room(size, now, forecast.room) or self._next_window(now, forecast)
        if window is None:
            return HORIZON
        window.size += size
        window.num_booked += 1
        window.keys.add(key)
        return math.ceil(window.start - now)

    def _close(self, window: _Window) -> None:
        self._booked = REMEMBERED * self._booked + window.num_booked
        # requests that look the same are not told apart, so more may seem to return than were told to
        self._returned = REMEMBERED * self._returned + min(window.num_returned, window.num_booked)

    def _next_window(self, now: float, forecast: QueueForecast) -> _Window | None:
        """A new window after the last one; None where that is beyond the horizon."""
        if self.are_booked(now):
            part = None if forecast.has_few_lookalikes else _part(now)
            window = _Window(self._windows[-1].start + forecast.distance, part)
        else:
            window = _Window(now + forecast.first_window)
        if window.start > now + HORIZON:
            return None
        self._windows.append(window)
        return window

    def _window_with_room(self, size: float, now: float, room: float) -> _Window | None:
        """One of the last windows, which are for different parts of a second."""
        last = list(self._windows)[-PARTS:]
        return next(
            (window for window in last if window.start > now and window.is_for(now) and window.has_room(size, room)),
            None,
        )


def _part(now: float) -> int:
    return int(now % 1 * PARTS)
