"""Whether the engine takes another request, and when a refused client should come back."""

import math
from dataclasses import dataclass

from server.engine.client.base import DeadlineError, QueueFullError
from server.engine.client.return_windows import ReturnWindows
from server.engine.types import EngineRequest, SchedulingParams

MEMORY = 30.0  # seconds after which a measurement has lost two thirds of its weight
MAX_COUNTED_OUTPUT = 256  # tokens: most answers end before their limit
MIN_QUEUE = 4  # so many requests may wait, however slow the machine is
NEARLY_EMPTY = 0.25  # a queue that is filled less than this takes new requests between two return windows
RESERVE = 0.15  # of the wait, for clients that return when the queue is slower than was expected
MIN_SAMPLES = 8  # of a rate
MIN_WAIT = 1  # seconds
OVERCOMMIT = 4  # so many times the capacity is taken, whatever tenants and priorities the requests have


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Bounds of what waits: requests, prompt tokens, and seconds that a new request would wait for its turn."""

    max_running: int
    max_queue: int
    max_tokens: int
    max_wait: float


class AdmissionControl:
    """Bounds the queue, and measures how fast requests leave it.

    For a request only what has its turn before it counts: requests that are less urgent do not, and of those of other
    tenants only as many as it takes turns with. So a queue that one tenant has filled is not full for another.

    The work of a request is the number of its tokens, a long output counted in part. The rate is that of the work
    whose turn came while something waited: idle time does not count. It is measured apart for the time in which all
    places of the batch are taken, when requests wait for others to end. Call all methods with ascending times.
    """

    def __init__(self, limits: QueueLimits) -> None:
        self._limits = limits
        self._unfinished = 0
        self._waiting: dict[str, EngineRequest] = {}
        self._loads: dict[tuple[int, str], _Load] = {}  # what waits, by priority and tenant
        self._unsaturated, self._saturated, self._lookalikes = _Rate(), _Rate(), _Rate()
        self._returns = ReturnWindows()
        self._now = -math.inf

    @property
    def capacity(self) -> int:
        return self._limits.max_running + self._limits.max_queue

    def free_capacity(self, scheduling: SchedulingParams) -> int:
        """How many more requests of this kind are taken."""
        free = self.capacity - self._unfinished + self._num_overtaken(self._ahead(scheduling))
        return min(free, OVERCOMMIT * self.capacity - self._unfinished)

    def expected_wait(self, scheduling: SchedulingParams) -> float:
        """Seconds until all that is ahead now has had its turn; 0 while nothing has been measured."""
        rate = self._service.value
        return self._ahead(scheduling).work / rate if rate else 0.0

    def admit(self, request: EngineRequest, now: float, *, follow_up: bool = False) -> None:
        """Count a new request as waiting. Raises QueueFullError if it exceeds a limit, DeadlineError if its turn is
        expected too late.

        A `follow_up` belongs to a request that was taken before, so only the number of requests bounds it.
        """
        self._advance(now)
        if follow_up and self.free_capacity(request.scheduling) < 1:
            raise QueueFullError(MIN_WAIT)
        if not follow_up:
            self._check_deadline(request, now)
        if not follow_up and not self._has_place(request, now):
            raise QueueFullError(self._retry_after(request, now))
        self._unfinished += 1
        self._waiting[request.request_id] = request
        load = self._loads.get(_lane(request), _NOTHING)
        self._loads[_lane(request)] = load + _Load(1, len(request.prompt_token_ids), _work(request))

    def start(self, request_id: str, now: float) -> None:
        """A request has had its turn: its first output is there. Further calls for it have no effect."""
        if request_id in self._waiting:
            self._advance(now)
            self._measured.add(self._leave(request_id))

    def release(self, request_id: str, now: float) -> None:
        """A request has ended."""
        self._advance(now)
        self._unfinished -= 1
        if request_id in self._waiting:
            self._leave(request_id)

    @property
    def _measured(self) -> "_Rate":
        return self._saturated if self._unfinished > self._limits.max_running else self._unsaturated

    @property
    def _service(self) -> "_Rate":
        return self._measured if self._measured.value else self._saturated

    def _leave(self, request_id: str) -> float:
        request = self._waiting.pop(request_id)
        load = self._loads.pop(_lane(request)) + _Load(-1, -len(request.prompt_token_ids), -_work(request))
        if load.count:
            self._loads[_lane(request)] = load
        return _work(request)

    def _ahead(self, scheduling: SchedulingParams) -> "_Load":
        """What has its turn before a new request; of each tenant as much as of the request's own."""
        urgent = [(key[1], load) for key, load in self._loads.items() if key[0] <= scheduling.priority]
        total = sum((load for _, load in urgent), _NOTHING)
        num_tenants = len({tenant for tenant, _ in urgent} | {scheduling.tenant})
        if num_tenants == 1:
            return total
        own = sum((load for tenant, load in urgent if tenant == scheduling.tenant), _NOTHING)
        return total.at_most(num_tenants, own)

    def _num_overtaken(self, ahead: "_Load") -> int:
        return len(self._waiting) - ahead.count

    def _check_deadline(self, request: EngineRequest, now: float) -> None:
        if (deadline := request.scheduling.deadline) is not None:
            late = now + self.expected_wait(request.scheduling) - deadline
            if late >= 0:
                raise DeadlineError(max(late, MIN_WAIT))

    def _advance(self, now: float) -> None:
        seconds, self._now = max(0.0, now - self._now), now
        if math.isfinite(seconds):
            self._lookalikes.advance(seconds)
            if self._waiting:
                self._measured.advance(seconds)

    def _has_place(self, request: EngineRequest, now: float) -> bool:
        return self.free_capacity(request.scheduling) >= 1 and self._fill(request) <= self._max_fill(request, now)

    def _max_fill(self, request: EngineRequest, now: float) -> float:
        """How full the queue may be with the request in it: places are kept for clients that were told to return."""
        if not self._returns.are_booked(now):
            return 1.0
        key = _key(request)
        if self._returns.expect(key, now):
            return 1 + RESERVE
        if self._returns.know(key):
            self._lookalikes.add(_work(request))
        return NEARLY_EMPTY

    def _fill(self, request: EngineRequest) -> float:
        """How full the queue is with the request in it; at most 1 is allowed, a little more for one that returns."""
        limits, ahead, tokens = self._limits, self._ahead(request.scheduling), len(request.prompt_token_ids)
        if self._unfinished < limits.max_running and not ahead.count:
            return 0.0
        num_unfinished = self._unfinished - self._num_overtaken(ahead)
        fill = (num_unfinished + 1 - limits.max_running) / max(limits.max_queue, 1)
        if ahead.count >= MIN_QUEUE:
            fill = max(fill, (ahead.tokens + tokens) / limits.max_tokens)
            if rate := self._service.value:
                fill = max(fill, (ahead.work + _work(request)) / rate * (1 + RESERVE) / limits.max_wait)
        return max(fill, 0.0)

    def _retry_after(self, request: EngineRequest, now: float) -> int:
        rate, fill = self._service.value, self._fill(request)
        if not rate or not fill:
            return MIN_WAIT + math.floor(self._service.seconds)  # nothing has left the queue in all this time
        return self._returns.book(
            _key(request),
            _work(request),
            now,
            queue_work=(self._ahead(request.scheduling).work + _work(request)) / fill,
            fill=fill,
            service_rate=rate,
            lookalike_rate=self._lookalikes.value,
        )


def _work(request: EngineRequest) -> float:
    return len(request.prompt_token_ids) + min(request.sampling.max_tokens, MAX_COUNTED_OUTPUT)


def _key(request: EngineRequest) -> int:
    """The same for a request and its repetition."""
    return hash((request.prompt_token_ids, request.sampling))


def _lane(request: EngineRequest) -> tuple[int, str]:
    return request.scheduling.priority, request.scheduling.tenant


@dataclass(frozen=True, slots=True)
class _Load:
    """Requests, their prompt tokens and their work."""

    count: int = 0
    tokens: int = 0
    work: float = 0.0

    def __add__(self, other: "_Load") -> "_Load":
        return _Load(self.count + other.count, self.tokens + other.tokens, self.work + other.work)

    def at_most(self, factor: int, other: "_Load") -> "_Load":
        """Each amount, or that of `other` times the factor if it is less."""
        return _Load(
            min(self.count, factor * other.count),
            min(self.tokens, factor * other.tokens),
            min(self.work, factor * other.work),
        )


_NOTHING = _Load()


class _Rate:
    """An amount per second of the recent past."""

    def __init__(self) -> None:
        self.seconds = self._amount = 0.0
        self._samples = 0

    def advance(self, seconds: float) -> None:
        keep = math.exp(-seconds / MEMORY)
        self.seconds = self.seconds * keep + seconds
        self._amount *= keep

    def add(self, amount: float) -> None:
        self._amount += amount
        self._samples += amount > 0

    @property
    def value(self) -> float:
        """0 until there are enough samples."""
        return self._amount / self.seconds if self.seconds and self._samples >= MIN_SAMPLES else 0.0
