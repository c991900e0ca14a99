"""Whether the engine takes another request, and when a refused client should come back."""

import math
from dataclasses import dataclass

from server.engine.client.base import DeadlineError, QueueFullError
from server.engine.client.return_windows import BURST, HORIZON, QueueForecast, ReturnWindows
from server.engine.client.workload import Load, Workload
from server.engine.types import EngineRequest, SchedulingParams

TIME_CONSTANT = 30.0  # seconds after which a measurement has lost two thirds of its weight
MIN_SAMPLES = 8  # before a rate is known
BUSY = 0.7  # share of the speed measured at the start that is left when the server also serves its clients
SPEED_SECONDS = 1.0  # the speed measured at the start weighs as much as a measurement of this length
LOOKALIKE_SECONDS = 20.0  # their rate starts as if none had come for this long: one burst is not a steady stream
MIN_QUEUE = 4  # requests that may always wait, however slow the machine is
NEARLY_EMPTY = 0.25  # filled less, a queue takes new requests between two return windows, if all refused clients return
RESERVE = 0.25  # of the wait, for clients that return when the queue is slower than was expected
MIN_WAIT = 1  # seconds
OVERCOMMIT = 4  # times the capacity: the most requests of all tenants and priorities together


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

    While there are more requests than run at once, the others wait for a slot of the batch: for as long as the work
    ahead of them takes at the rate at which work gets done. A request for which there is a free slot waits for the
    prompts before its own only. Each of the two rates is measured while requests wait for what it describes, so idle
    time and light load do not count. `speed` is what is expected before anything was measured.

    Call all methods with ascending times, in monotonic seconds.
    """

    def __init__(self, limits: QueueLimits, speed: Speed = UNKNOWN_SPEED) -> None:
        self._limits = limits
        self._workload = Workload(limits.max_running, speed.prompt_token_cost)
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
        workload = self._workload
        free = self.capacity - workload.num_running - workload.ahead(scheduling).count
        return min(free, OVERCOMMIT * self.capacity - workload.num_unfinished)

    def expected_wait(self, scheduling: SchedulingParams) -> float:
        """Seconds until all that is ahead now has had its turn; 0 while nothing has been measured."""
        return self._seconds(self._workload.ahead(scheduling))

    def admit(self, request: EngineRequest, now: float, *, follow_up: bool = False) -> None:
        """Count a new request as waiting. Raises QueueFullError if it exceeds a limit, DeadlineError if its turn is
        expected too late.

        A `follow_up` belongs to a request that was taken before, so only the number of requests bounds it.
        """
        self._advance(now)
        if not follow_up:
            self._check_deadline(request, now)
            if not self._has_place(request, now):
                raise QueueFullError(self._retry_after(request, now))
        elif self.free_capacity(request.scheduling) < 1:
            raise QueueFullError(MIN_WAIT)
        self._workload.add(request)

    def record_output(self, request_id: str, num_tokens: int, now: float) -> None:
        """A request got new tokens, or its prompt was computed. With its first output it has had its turn."""
        self._advance(now)
        if self._workload.is_waiting(request_id):
            load = self._workload.start(request_id)
            if self._measured is self._prefill:
                self._prefill.add(load.tokens)
            self._record_work(self._workload.complete_prompt(request_id, load.tokens))
        self._record_work(self._workload.complete(request_id, num_tokens))

    def release(self, request_id: str, now: float) -> None:
        """A request has ended. What it has left of its work is done, unless it was still waiting: then none was."""
        self._advance(now)
        if self._workload.is_waiting(request_id):
            self._workload.withdraw(request_id)
        else:
            self._record_work(self._workload.finish(request_id))

    # What is measured

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
        if self._workload.num_unfinished > self._limits.max_running:
            return self._service
        return self._prefill if self._workload.num_waiting >= MIN_QUEUE else None

    def _record_work(self, done: float) -> None:
        if self._measured is self._service:
            self._service.add(done)

    # What is expected

    def _seconds(self, ahead: Load) -> float:
        """How long it takes until this has had its turn; 0 while nothing has been measured."""
        num_queued = self._workload.num_queued(ahead)
        if num_queued <= 0:
            return ahead.tokens / rate if (rate := self._prefill.value) else 0.0
        queued = ahead.work * min(1.0, num_queued / max(ahead.count, 1))  # preempted requests wait, but not ahead
        # When its turn comes, half of the answers in the slots is left, on average. Their prompts are computed early.
        # Of answers longer than MAX_COUNTED_OUTPUT nothing is left to count.
        counted = (running for running in self._workload.in_slots() if running.remaining)
        delay = sum(running.remaining - running.answer / 2 for running in counted)
        return max(queued + delay, 0.0) / rate if (rate := self._service.value) else 0.0

    def _seconds_until_ended(self, count: int) -> float:
        """Seconds until `count` requests have ended. Those that started together end together, a whole round later."""
        running = list(self._workload.in_slots())
        rate = self._service.value
        if count < 1 or not running or not rate:
            return 0.0
        rounds, index = divmod(count - 1, len(running))
        remaining = sorted(one.remaining for one in running)[index] * len(running)
        return (remaining + rounds * sum(one.work for one in running)) / rate

    def _fill(self, request: EngineRequest) -> float:
        """How full the queue is with the request in it, by the limit that it comes closest to; 1 is full."""
        limits, ahead = self._limits, self._workload.ahead(request.scheduling)
        together = ahead + self._workload.load_of(request)
        fill = max(0.0, self._workload.num_queued(together) / max(limits.max_queue, 1))
        if ahead.count >= MIN_QUEUE:
            reserve = RESERVE if fill else 0.0
            fill = max(fill, together.tokens / limits.max_tokens)
            fill = max(fill, self._seconds(together) * (1 + reserve) / limits.max_wait)
        return fill

    # What is decided

    def _check_deadline(self, request: EngineRequest, now: float) -> None:
        if (deadline := request.scheduling.deadline) is not None:
            late = now + self.expected_wait(request.scheduling) - deadline
            if late >= 0:
                raise DeadlineError(min(max(late, MIN_WAIT), HORIZON))

    def _has_place(self, request: EngineRequest, now: float) -> bool:
        return self._fill(request) <= self._max_fill(request, now) and self.free_capacity(request.scheduling) >= 1

    def _max_fill(self, request: EngineRequest, now: float) -> float:
        """How full the queue may be with the request in it: places are kept for clients that were told to return, for
        as many as usually do.
        """
        if not self._returns.are_booked(now):
            return 1.0
        key = _key(request)
        if self._returns.welcome(key, now):
            return 1 + RESERVE
        if self._returns.know(key):
            self._lookalikes.add(self._workload.load_of(request).work)
        return 1 - (1 - NEARLY_EMPTY) * self._returns.attendance

    def _retry_after(self, request: EngineRequest, now: float) -> int:
        load, fill = self._workload.load_of(request), self._fill(request)
        together = self._workload.ahead(request.scheduling) + load
        seconds = self._seconds(together)
        if not seconds or not fill:
            return MIN_WAIT
        forecast = QueueForecast(
            fill,
            drain=seconds / fill,
            earliest=self._seconds_until_ended(math.ceil((fill - 1 + BURST) / fill * together.count)),
            lookalike_rate=self._lookalikes.value * fill / together.work,
        )
        return self._returns.book(_key(request), load.work * fill / together.work, now, forecast)


def _key(request: EngineRequest) -> int:
    """The same for a request and its repetition."""
    return hash((request.prompt_token_ids, request.sampling))


class _Rate:
    """An amount per second of the recent past. Time counts when the next amount comes: steps may be long."""

    def __init__(self, expected: float = 0.0, seconds: float = 0.0) -> None:
        """`expected` counts as if it had been measured for `seconds`."""
        self._seconds, self._pending = seconds, 0.0
        self._amount = expected * seconds
        self._samples = MIN_SAMPLES if expected else 0

    def advance(self, seconds: float) -> None:
        self._pending += seconds

    def add(self, amount: float) -> None:
        keep = math.exp(-self._pending / TIME_CONSTANT)
        self._seconds = self._seconds * keep + self._pending
        self._amount = self._amount * keep + amount
        self._pending = 0.0
        self._samples += amount > 0

    @property
    def value(self) -> float:
        """0 until there are enough samples."""
        return self._amount / self._seconds if self._seconds and self._samples >= MIN_SAMPLES else 0.0
