"""Whether the engine takes another request, and when a refused client should come back."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from server.engine.client.base import DeadlineError, QueueFullError
from server.engine.client.return_windows import BURST, ReturnWindows
from server.engine.types import EngineRequest, SchedulingParams

MEMORY = 30.0  # seconds after which a measurement has lost two thirds of its weight
MAX_COUNTED_OUTPUT = 256  # tokens: most answers end before their limit
MIN_QUEUE = 4  # so many requests may wait, however slow the machine is
NEARLY_EMPTY = 0.25  # a queue that is filled less than this takes new requests between two return windows
RESERVE = 0.25  # of the wait, for clients that return when the queue is slower than was expected
MIN_SAMPLES = 8  # of a rate
LOOKALIKE_SECONDS = 20.0  # their rate starts as if there had been none for so long: one burst is not a steady stream
BUSY = 0.7  # share of the speed measured at the start that is left when the server also serves its clients
SPEED_SECONDS = 1.0  # the speed measured at the start weighs as much as a measurement of so many seconds
MIN_WAIT = 1  # seconds
OVERCOMMIT = 4  # so many times the capacity is taken, whatever tenants and priorities the requests have


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Bounds of what waits: requests, prompt tokens, and seconds that a new request would wait for its turn."""

    max_running: int
    max_queue: int
    max_tokens: int
    max_wait: float


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a full batch is computed: tokens per second that it generates (0: not known), and the cost of a prompt
    token in generated tokens.
    """

    tokens_per_second: float = 0.0
    prompt_token_cost: float = 1.0


UNKNOWN_SPEED = Speed()


class AdmissionControl:
    """Bounds the queue, and measures how fast requests leave it.

    For a request only what has its turn before it counts: requests that are less urgent do not, and of those of other
    tenants only as many as it takes turns with. So a queue that one tenant has filled is not full for another.

    The work of a request is the number of its tokens, prompt tokens by their cost and a long output counted in part.
    While more requests are here than run at once, the others wait for a slot of the batch: for as long as the work that
    is ahead takes at the rate at which work gets done. A request that fits a free slot waits for the prompts before its
    own alone. Each of the two rates is measured while requests wait for what it describes, so idle time and light load
    do not count. `speed` is what is expected before anything was measured. Call all methods with ascending times.
    """

    def __init__(self, limits: QueueLimits, speed: Speed = UNKNOWN_SPEED) -> None:
        self._limits = limits
        self._prompt_token_cost = speed.prompt_token_cost
        self._unfinished = 0
        self._waiting: dict[str, EngineRequest] = {}
        self._running: dict[str, _Running] = {}
        self._loads: dict[tuple[int, str], _Load] = {}  # what waits, by priority and tenant
        self._service = _Rate(speed.tokens_per_second * BUSY, SPEED_SECONDS) if speed.tokens_per_second else _Rate()
        self._prefill, self._lookalikes = _Rate(), _Rate(seconds=LOOKALIKE_SECONDS)
        self._measured: _Rate | None = None  # since the previous call
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
        return self._seconds(self._ahead(scheduling))

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
        self._loads[_lane(request)] = load + self._load(request)

    def record_output(self, request_id: str, num_tokens: int, now: float) -> None:
        """A request got so many new tokens, or its prompt was computed. With its first output it has had its turn."""
        self._advance(now)
        if request_id in self._waiting:
            request = self._leave(request_id)
            load = self._load(request)
            if self._measured is self._prefill:
                self._prefill.add(load.tokens)
            self._running[request_id] = _Running(load.work, load.work)
            self._complete(request_id, load.tokens * self._prompt_token_cost)
        self._complete(request_id, num_tokens)

    def release(self, request_id: str, now: float) -> None:
        """A request has ended. What it has left of its work is done, unless it was still waiting: then none was."""
        self._advance(now)
        self._unfinished -= 1
        if request_id in self._waiting:
            self._leave(request_id)
        else:
            self._complete(request_id, math.inf)
            del self._running[request_id]

    def _complete(self, request_id: str, work: float) -> None:
        running = self._running[request_id]
        done = min(work, running.remaining)
        running.remaining -= done
        if self._measured is self._service:
            self._service.add(done)

    def _leave(self, request_id: str) -> EngineRequest:
        request = self._waiting.pop(request_id)
        if (load := self._loads.pop(_lane(request)) - self._load(request)).count:
            self._loads[_lane(request)] = load
        return request

    def _load(self, request: EngineRequest) -> "_Load":
        tokens = len(request.prompt_token_ids)
        return _Load(1, tokens, tokens * self._prompt_token_cost + min(request.sampling.max_tokens, MAX_COUNTED_OUTPUT))

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
        seconds, self._now = now - self._now, max(now, self._now)
        if not 0 < seconds < math.inf:
            return
        self._lookalikes.advance(seconds)
        self._lookalikes.add(0.0)
        self._measured = self._bottleneck
        if self._measured is not None:
            self._measured.advance(seconds)

    @property
    def _bottleneck(self) -> "_Rate | None":
        """What requests wait for now."""
        if self._unfinished > self._limits.max_running:
            return self._service
        return self._prefill if len(self._waiting) >= MIN_QUEUE else None

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
            self._lookalikes.add(self._load(request).work)
        return NEARLY_EMPTY

    def _num_queued(self, ahead: "_Load") -> int:
        """How many of those ahead wait for a slot of the batch; negative if slots are free."""
        return len(self._running) + ahead.count - self._limits.max_running

    def _seconds(self, ahead: "_Load") -> float:
        """How long it takes until this has had its turn; 0 while nothing has been measured."""
        num_queued = self._num_queued(ahead)
        if num_queued <= 0:
            return ahead.tokens / rate if (rate := self._prefill.value) else 0.0
        queued = ahead.work * min(1.0, num_queued / max(ahead.count, 1))  # preempted requests wait, but not ahead
        delay = sum(running.remaining - running.work / 2 for running in self._in_slots())  # half is left on average
        return max(queued + delay, 0.0) / rate if (rate := self._service.value) else 0.0

    def _in_slots(self) -> "Iterator[_Running]":
        """What runs, and what is about to start in free slots."""
        yield from self._running.values()
        for request in islice(self._waiting.values(), max(self._limits.max_running - len(self._running), 0)):
            work = self._load(request).work
            yield _Running(work, work)

    def _fill(self, request: EngineRequest) -> float:
        """How full the queue is with the request in it; at most 1 is allowed, a little more for one that returns."""
        limits, ahead = self._limits, self._ahead(request.scheduling)
        together = ahead + self._load(request)
        fill = max(0.0, self._num_queued(together) / max(limits.max_queue, 1))
        if ahead.count >= MIN_QUEUE:
            reserve = RESERVE if fill else 0.0
            fill = max(fill, together.tokens / limits.max_tokens)
            fill = max(fill, self._seconds(together) * (1 + reserve) / limits.max_wait)
        return fill

    def _retry_after(self, request: EngineRequest, now: float) -> int:
        load, fill = self._load(request), self._fill(request)
        together = self._ahead(request.scheduling) + load
        seconds = self._seconds(together)
        if not seconds or not fill:
            return MIN_WAIT
        return self._returns.book(
            _key(request),
            load.work * fill / together.work,
            now,
            fill=fill,
            drain=seconds / fill,
            earliest=self._seconds_until_ended(math.ceil((fill - 1 + BURST) / fill * together.count)),
            lookalike_rate=self._lookalikes.value * fill / together.work,
        )

    def _seconds_until_ended(self, count: int) -> float:
        """Seconds until so many requests end. Those that began at once end at once, a whole round later."""
        running = list(self._in_slots())
        rate = self._service.value
        if count < 1 or not running or not rate:
            return 0.0
        rounds, index = divmod(count - 1, len(running))
        remaining = sorted(one.remaining for one in running)[index] * len(running)
        return (remaining + rounds * sum(one.work for one in running)) / rate


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

    def __sub__(self, other: "_Load") -> "_Load":
        return _Load(self.count - other.count, self.tokens - other.tokens, self.work - other.work)

    def at_most(self, factor: int, other: "_Load") -> "_Load":
        """Each amount, or that of `other` times the factor if it is less."""
        return _Load(
            min(self.count, factor * other.count),
            min(self.tokens, factor * other.tokens),
            min(self.work, factor * other.work),
        )


_NOTHING = _Load()


@dataclass(slots=True)
class _Running:
    """The work of a request that runs, and what is left of it."""

    work: float
    remaining: float


class _Rate:
    """An amount per second of the recent past. Time counts when the next amount comes: steps may be long."""

    def __init__(self, expected: float = 0.0, seconds: float = 0.0) -> None:
        """`expected` counts as if it had been measured for so many seconds."""
        self._seconds, self._pending = seconds, 0.0
        self._amount = expected * seconds
        self._samples = MIN_SAMPLES if expected else 0

    def advance(self, seconds: float) -> None:
        self._pending += seconds

    def add(self, amount: float) -> None:
        keep = math.exp(-self._pending / MEMORY)
        self._seconds = self._seconds * keep + self._pending
        self._amount = self._amount * keep + amount
        self._pending = 0.0
        self._samples += amount > 0

    @property
    def value(self) -> float:
        """0 until there are enough samples."""
        return self._amount / self._seconds if self._seconds and self._samples >= MIN_SAMPLES else 0.0
