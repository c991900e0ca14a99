"""Which requests are taken, and whether a refused client that returns when it is told to finds a place."""

import heapq
import math
import random
from dataclasses import dataclass, field, replace
from itertools import count

import pytest

from server.engine.client import return_windows
from server.engine.client.admission import MIN_QUEUE, MIN_WAIT, OVERCOMMIT, AdmissionControl, QueueLimits, Speed
from server.engine.client.base import DeadlineError, QueueFullError
from server.engine.client.return_windows import HORIZON
from server.engine.client.workload import MAX_COUNTED_OUTPUT
from server.engine.types import EngineRequest, GenerateRequest, SamplingParams, SchedulingParams

LIMITS = QueueLimits(max_running=2, max_queue=100, max_tokens=10_000, max_wait=10.0)
ANYBODY = SchedulingParams()
WARM_UP = 20.0  # seconds in which the rate is not known yet
numbers = count()


def request(prompt_tokens: int = 50, max_tokens: int = 50, scheduling: SchedulingParams = ANYBODY) -> EngineRequest:
    sampling = SamplingParams(max_tokens=max_tokens)
    return GenerateRequest(f"r{next(numbers)}", tuple(range(prompt_tokens)), sampling, scheduling=scheduling)


def admitted(admission: AdmissionControl, now: float, how_many: int, prompt_tokens: int = 50) -> list[str]:
    asked = [request(prompt_tokens) for _ in range(how_many)]
    for one in asked:
        admission.admit(one, now)
    return [one.request_id for one in asked]


def with_measured_rate() -> AdmissionControl:
    """100 tokens of work leave the queue per second; nothing waits."""
    admission = AdmissionControl(LIMITS)
    ids = admitted(admission, 0.0, 20)
    for second, request_id in enumerate(ids, start=1):
        admission.record_output(request_id, 1, float(second))
        admission.release(request_id, float(second))
    return admission


def test_the_number_of_requests_is_bounded_and_given_back() -> None:
    admission = AdmissionControl(QueueLimits(2, 1, 10_000, 10.0))
    first, *_ = admitted(admission, 0.0, 3)
    assert admission.free_capacity(ANYBODY) == 0
    with pytest.raises(QueueFullError):
        admission.admit(request(), 0.0)
    admission.release(first, 1.0)
    assert admission.free_capacity(ANYBODY) == 1


def test_the_number_of_prompt_tokens_is_bounded() -> None:
    admission = AdmissionControl(LIMITS)
    admitted(admission, 0.0, 9, prompt_tokens=1000)
    admitted(admission, 0.0, 1)  # a short one still fits
    with pytest.raises(QueueFullError):
        admission.admit(request(prompt_tokens=1000), 0.0)


def test_the_expected_wait_is_bounded() -> None:
    admission = with_measured_rate()
    for request_id in admitted(admission, 30.0, 2):
        admission.record_output(request_id, 1, 30.0)
    admitted(admission, 30.0, 7)
    assert admission.expected_wait(ANYBODY) == pytest.approx(7 + 0.5, rel=0.1), (
        "half of the answers in the slots must be computed first"
    )
    with pytest.raises(QueueFullError):
        admission.admit(request(), 30.0)


def test_answers_longer_than_is_counted_do_not_hide_the_queue() -> None:
    """All slots are busy, and nobody knows for how long."""
    admission = with_measured_rate()
    for _ in range(LIMITS.max_running):
        long = request(max_tokens=2000)
        admission.admit(long, 30.0)
        admission.record_output(long.request_id, MAX_COUNTED_OUTPUT + 1, 30.0)
    admitted(admission, 30.0, 3)
    assert admission.expected_wait(ANYBODY) == pytest.approx(3.0, rel=0.1)


SLOTS = QueueLimits(max_running=32, max_queue=100, max_tokens=10_000, max_wait=10.0)


def with_measured_prefill(tokens_per_second: float) -> AdmissionControl:
    """Prompts of 50 tokens have been computed one after the other while others waited; nothing runs."""
    admission = AdmissionControl(SLOTS)
    ids = admitted(admission, 0.0, 20)
    for number, request_id in enumerate(ids, start=1):
        admission.record_output(request_id, 1, number * 50 / tokens_per_second)
    for request_id in ids:
        admission.release(request_id, 10.0)
    return admission


def test_requests_that_fit_the_free_slots_wait_for_prompts_alone() -> None:
    """However long their answers may be: on a slow machine, 32 clients at once are served at once."""
    admission = with_measured_prefill(420.0)
    for _ in range(SLOTS.max_running):
        admission.admit(request(128, max_tokens=1000), 30.0)
    assert admission.expected_wait(ANYBODY) == pytest.approx(32 * 128 / 420, rel=0.1)


def test_long_prompts_do_not_fill_free_slots_beyond_the_longest_wait() -> None:
    """The control: the first token must come in time."""
    admission = with_measured_prefill(420.0)
    admitted(admission, 30.0, 4, prompt_tokens=1000)
    with pytest.raises(QueueFullError) as refusal:
        admission.admit(request(1000), 30.0)
    assert 2 <= refusal.value.retry_after <= 10


def test_a_few_requests_may_wait_on_the_slowest_machine() -> None:
    admission = with_measured_rate()
    for _ in range(MIN_QUEUE):
        admission.admit(request(prompt_tokens=5000), 30.0)
    with pytest.raises(QueueFullError):
        admission.admit(request(), 30.0)


def test_a_follow_up_is_bounded_by_the_number_of_requests_alone() -> None:
    admission = with_measured_rate()
    admitted(admission, 30.0, 5)
    for _ in range(LIMITS.max_running + LIMITS.max_queue - 5):
        admission.admit(request(), 30.0, follow_up=True)
    with pytest.raises(QueueFullError):
        admission.admit(request(), 30.0, follow_up=True)


def test_an_urgent_request_in_the_slot_of_a_preempted_one_lets_others_come() -> None:
    """More requests have had an output than run at once, and no request waits for its first."""
    admission = with_measured_rate()
    for request_id in admitted(admission, 30.0, LIMITS.max_running + 1):
        admission.record_output(request_id, 1, 30.0)
    before = admission.expected_wait(ANYBODY)
    admitted(admission, 30.0, 1)
    assert before < admission.expected_wait(ANYBODY) < math.inf


def test_idle_time_does_not_count() -> None:
    admission = with_measured_rate()
    admitted(admission, 10_000.0, 3, prompt_tokens=1)  # one waits for a slot
    assert admission.expected_wait(ANYBODY) == pytest.approx(1.0, rel=0.05), "both slots are free after 102 tokens"


def test_without_a_measurement_the_client_comes_back_soon() -> None:
    admission = AdmissionControl(QueueLimits(1, 0, 10_000, 10.0))
    admitted(admission, 0.0, 1)
    with pytest.raises(QueueFullError) as refusal:
        admission.admit(request(), 0.0)
    assert refusal.value.retry_after == MIN_WAIT


def admit_until_full(admission: AdmissionControl, scheduling: SchedulingParams) -> list[EngineRequest]:
    accepted: list[EngineRequest] = []
    while True:
        one = request(scheduling=scheduling)
        try:
            admission.admit(one, 30.0)
        except QueueFullError:
            return accepted
        accepted.append(one)


def flooded(priority: int = 0) -> tuple[AdmissionControl, list[EngineRequest]]:
    """A tenant has filled the queue and all slots."""
    admission = with_measured_rate()
    accepted = admit_until_full(admission, SchedulingParams(priority, "flood"))
    for one in accepted[: LIMITS.max_running]:
        admission.record_output(one.request_id, 1, 30.0)
    return admission, accepted


def test_a_queue_that_a_tenant_has_filled_is_not_full_for_another() -> None:
    admission, _ = flooded()
    other = SchedulingParams(tenant="other")
    assert admission.expected_wait(other) == 0
    assert admission.free_capacity(other) > 0
    admission.admit(request(scheduling=other), 30.0)
    assert admission.expected_wait(other) == pytest.approx(2.5, rel=0.2), "its own request and one of the flood"
    assert len(admit_until_full(admission, other)) < 10, "half of what the queue holds of one tenant"


def test_less_urgent_requests_do_not_fill_the_queue_for_others() -> None:
    admission, _ = flooded(priority=10)
    admission.admit(request(scheduling=SchedulingParams(0, "flood")), 30.0)
    with pytest.raises(QueueFullError):
        admission.admit(request(scheduling=SchedulingParams(10, "flood")), 30.0)


def test_what_tenants_wait_for_together_is_bounded() -> None:
    admission = AdmissionControl(QueueLimits(2, 10, 10**9, 1e9))
    accepted = 0
    for tenant in range(100):
        for _ in range(20):
            try:
                admission.admit(request(scheduling=SchedulingParams(tenant=str(tenant))), 0.0)
            except QueueFullError:
                continue
            accepted += 1
    assert accepted == OVERCOMMIT * admission.capacity


def test_nothing_is_left_of_tenants_that_are_gone() -> None:
    admission, waiting = flooded()
    for one in waiting:
        admission.release(one.request_id, 31.0)
    assert admission._workload._lanes == {}
    assert admission.free_capacity(ANYBODY) == admission.capacity


def test_a_deadline_before_the_expected_turn_is_refused_at_once() -> None:
    admission = with_measured_rate()
    admitted(admission, 30.0, 7)
    wait = admission.expected_wait(ANYBODY)
    assert wait > 4
    with pytest.raises(DeadlineError) as refusal:
        admission.admit(request(scheduling=SchedulingParams(deadline=31.0)), 30.0)
    assert 3 <= refusal.value.retry_after < wait
    admission.admit(request(scheduling=SchedulingParams(deadline=30.5 + wait)), 30.0)


def on_a_very_slow_machine() -> AdmissionControl:
    """A request takes more than twenty minutes, and a full queue about a day."""
    return AdmissionControl(QueueLimits(2, 100, 10_000, 86_400.0), Speed(0.1))


def test_for_the_longest_retry_after_no_place_is_kept() -> None:
    admission = on_a_very_slow_machine()
    accepted = admit_until_full(admission, ANYBODY)
    with pytest.raises(QueueFullError) as refusal:
        admission.admit(request(), 30.0)
    assert refusal.value.retry_after == HORIZON
    for one in accepted:
        admission.release(one.request_id, 30.0)
    assert len(admit_until_full(admission, ANYBODY)) == len(accepted)


def test_a_late_deadline_is_told_no_more_than_the_longest_retry_after() -> None:
    admission = on_a_very_slow_machine()
    admitted(admission, 30.0, 10)
    assert admission.expected_wait(ANYBODY) > 2 * HORIZON
    with pytest.raises(DeadlineError) as refusal:
        admission.admit(request(scheduling=SchedulingParams(deadline=31.0)), 30.0)
    assert refusal.value.retry_after == HORIZON


@dataclass
class Simulation:
    """A server with as many places as LIMITS run, and clients that come at random and obey Retry-After once."""

    arrival_rate: float  # requests per second
    service_rate: float  # requests per second, on average
    seconds: float
    limits: QueueLimits
    obey: bool = True
    look_the_same: bool = False
    waits: list[float] = field(default_factory=list)
    returns: list[bool] = field(default_factory=list)
    told: list[float] = field(default_factory=list)  # what each of those that returned was told
    served: int = 0

    def run(self) -> "Simulation":
        self._random, self._events, self._numbers = random.Random(0), list[tuple[float, int, str, str]](), count()
        self._admission, self._queue = AdmissionControl(self.limits), list[tuple[str, float]]()
        self._free, self._refused = self.limits.max_running, dict[str, EngineRequest]()
        self._told = dict[str, float]()
        time = 0.0
        while (time := time + self._random.expovariate(self.arrival_rate)) < self.seconds:
            self._push(time, "arrives")
        while self._events:
            now, _, event, request_id = heapq.heappop(self._events)
            if event == "progresses":
                self._admission.record_output(request_id, 10, now)
                continue
            if event == "ends":
                self._admission.release(request_id, now)
                self._free += 1
                self.served += now <= self.seconds
            else:
                self._arrive(now, request_id)
            self._fill_places(now)
        return self

    def _push(self, time: float, event: str, request_id: str = "") -> None:
        heapq.heappush(self._events, (time, next(self._numbers), event, request_id))

    def _ask(self, earlier: str) -> EngineRequest:
        """A new request, or that of a client that returns, under a new id as always."""
        if earlier in self._refused:
            return replace(self._refused.pop(earlier), request_id=f"r{next(numbers)}")
        tokens = 50 if self.look_the_same else self._random.randint(10, 90)
        start = 0 if self.look_the_same else next(numbers)
        ids = tuple(range(start, start + tokens))
        return GenerateRequest(f"r{next(numbers)}", ids, SamplingParams(max_tokens=50))

    def _arrive(self, now: float, like: str) -> None:
        is_new = like not in self._refused
        asked = self._ask(like)
        try:
            self._admission.admit(asked, now)
            self._queue.append((asked.request_id, now))
        except QueueFullError as refusal:
            if is_new:
                wait = refusal.retry_after if self.obey else self._random.uniform(0, 10)
                self._refused[asked.request_id], self._told[asked.request_id] = asked, refusal.retry_after
                self._push(now + wait + self._random.uniform(0.001, 0.05), "returns", asked.request_id)
        if not is_new and WARM_UP < now < self.seconds:
            self.returns.append(bool(self._queue) and self._queue[-1][0] == asked.request_id)
            self.told.append(self._told[like])

    def _fill_places(self, now: float) -> None:
        while self._queue and self._free:
            request_id, arrived = self._queue.pop(0)
            self._free -= 1
            self._admission.record_output(request_id, 1, now)
            self.waits.append(now - arrived)
            seconds = self._random.uniform(0.5, 1.5) * self.limits.max_running / self.service_rate
            for tenths in (2, 4, 6, 8):
                self._push(now + seconds * tenths / 10, "progresses", request_id)
            self._push(now + seconds, "ends", request_id)


OVERLOADS = [(24, 8, LIMITS), (10, 8, LIMITS), (24, 8, QueueLimits(64, 64, 2**20, 10)), (60, 20, LIMITS)]


@pytest.mark.parametrize(("arrivals", "service", "limits"), OVERLOADS)
def test_who_obeys_retry_after_finds_a_place(arrivals: float, service: float, limits: QueueLimits) -> None:
    overload = Simulation(arrivals, service, 100.0, limits).run()
    assert sum(overload.returns) >= 0.95 * len(overload.returns) > 100
    assert sorted(overload.waits)[int(0.95 * len(overload.waits))] <= limits.max_wait
    assert overload.served >= 0.9 * service * 100.0


def test_who_is_told_less_than_the_longest_retry_after_finds_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(return_windows, "HORIZON", 30)
    overload = Simulation(24, 8, 100.0, LIMITS).run()
    kept = [found for found, seconds in zip(overload.returns, overload.told, strict=True) if seconds < 30]
    assert sum(kept) >= 0.95 * len(kept) > 100
    assert max(overload.told) == 30
    assert sum(overload.returns) < 0.95 * len(overload.returns), "the control: for the others no place is kept"


def test_requests_that_look_the_same_may_take_each_others_places() -> None:
    overload = Simulation(24, 8, 100.0, LIMITS, look_the_same=True).run()
    assert sum(overload.returns) >= 0.9 * len(overload.returns) > 100


def test_who_does_not_obey_is_mostly_refused() -> None:
    """The control: it is the return windows that keep the places."""
    overload = Simulation(24, 8, 100.0, LIMITS, obey=False).run()
    assert sum(overload.returns) < 0.5 * len(overload.returns)
