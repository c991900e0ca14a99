"""Three times as many requests as are answered: first tokens come in time, and who obeys Retry-After gets in.

The scheduler and the admission control are the real ones; only the clock is simulated, by a machine whose steps take a
time that is linear in their tokens. Lengths and arrivals are those of `python -m benchmarks.overload`.
"""

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count

import pytest
import torch

from server.engine.cache.layout import CacheLayout
from server.engine.client.admission import AdmissionControl, QueueLimits, Speed
from server.engine.client.base import QueueFullError
from server.engine.client.workload import RunningWork, Workload
from server.engine.config import EngineConfig
from server.engine.scheduler import Scheduler
from server.engine.step import ModelOutput, SampledTokens
from server.engine.types import EngineRequest, GenerateRequest, SamplingParams

STREAMS, FACTOR = 32, 3.0
PROMPT_TOKENS, OUTPUT_TOKENS = (16, 512), (8, 128)
STEP, DECODE_TOKEN, PROMPT_TOKEN = 0.008, 0.00105, 0.00027  # seconds, on the simulated machine
TRAVEL = 0.03  # seconds from a client to the server, at most
WARM_UP = 30.0  # seconds of arrivals of which no first token counts

Drift = Callable[[float], float]


def steady(now: float) -> float:
    return 1.0


def waves(now: float) -> float:
    """The time of a step, as a multiple of the usual: 20 % slower and 20 % faster in turn."""
    return 1 + 0.2 * math.sin(2 * math.pi * now / 120)


def falls(now: float) -> float:
    """The machine gets 20 % slower, and stays so."""
    return 1.0 if now < 40 else 1.25


@dataclass
class Overload:
    """Arrivals at random, of which the refused come back once; `arrival_rate` 0: a closed loop of STREAMS."""

    seconds: float
    arrival_rate: float = 0.0
    drift: Drift = steady
    slowness: float = 1.0
    has_state: bool = True  # so chunks of prompts end where it is saved
    prompt_token_cost: float = 0.25  # as it was measured at the start
    ttft: list[float] = field(default_factory=list)
    returns: list[bool] = field(default_factory=list)
    num_tokens: int = 0
    num_ended: int = 0
    expected: list[float] = field(default_factory=list)  # at the arrival, of each in `ttft`

    def run(self) -> "Overload":
        self._random, self._numbers = random.Random(0), count()
        config = EngineConfig(4096)
        layout = CacheLayout(16, 8000, config.max_num_seqs, 64 if self.has_state else 0, True, self.has_state)
        self._now = 0.0
        self._scheduler = Scheduler(config, layout, clock=lambda: self._now)
        limits = QueueLimits(config.max_num_seqs, config.max_queue, config.max_queue_tokens, config.max_queue_wait)
        speed = Speed(64 / (STEP + 64 * DECODE_TOKEN) / self.slowness, self.prompt_token_cost)
        self._admission = AdmissionControl(limits, speed)
        self._arrivals: list[tuple[float, int, GenerateRequest, bool]] = []  # with whether it has come before
        self._arrived: dict[str, tuple[float, float]] = {}
        self._inbox: list[GenerateRequest] = []
        for _ in range(1 if self.arrival_rate else STREAMS):
            self._push(0.0)
        while self._now < self.seconds:
            self._step()
        return self

    def _push(self, time: float, like: GenerateRequest | None = None) -> None:
        number = next(self._numbers)
        if like is None:
            prompt, output = self._length(PROMPT_TOKENS), self._length(OUTPUT_TOKENS)
            sampling = SamplingParams(output, ignore_eos=True)
            new = GenerateRequest(f"r{number}", (number,) * prompt, sampling)
        else:
            new = replace(like, request_id=f"r{number}")
        heapq.heappush(self._arrivals, (time, number, new, like is not None))

    def _length(self, bounds: tuple[int, int]) -> int:
        return round(math.exp(self._random.uniform(*map(math.log, bounds))))

    def _arrive(self, until: float) -> None:
        """What comes while a step is computed."""
        while self._arrivals and self._arrivals[0][0] <= until:
            now, _, request, is_return = heapq.heappop(self._arrivals)
            if self.arrival_rate and not is_return:
                self._push(now + self._random.expovariate(self.arrival_rate))
            try:
                expected = self._admission.expected_wait(request.scheduling)
                self._admission.admit(request, now)
            except QueueFullError as refusal:
                if not is_return:
                    self._push(now + refusal.retry_after + self._random.uniform(0.001, TRAVEL), request)
                accepted = False
            else:
                accepted = True
                self._arrived[request.request_id] = now, expected
                self._inbox.append(request)
            if is_return and now > WARM_UP:
                self.returns.append(accepted)

    def _step(self) -> None:
        for request in self._inbox:
            self._scheduler.add(request)
        self._inbox.clear()
        batch = self._scheduler.schedule()
        if batch.is_empty:
            self._now = self._arrivals[0][0]
            self._arrive(self._now)
            return
        seconds = STEP + DECODE_TOKEN * batch.num_decodes + PROMPT_TOKEN * batch.num_prefill_tokens
        started = self._now
        self._now += seconds * self.drift(self._now) * self.slowness
        self._arrive(self._now)
        sampled = SampledTokens([(3,)] * len(batch.sampling))
        outputs = self._scheduler.update(batch, ModelOutput(torch.empty(0)), sampled)
        self._scheduler.observe_step(
            self._now - started, decodes=batch.num_decodes, prefill_tokens=batch.num_prefill_tokens
        )
        for output in outputs:
            arrived, expected = self._arrived.pop(output.request_id, (0.0, 0.0))
            if arrived > WARM_UP:
                self.ttft.append(self._now - arrived)
                self.expected.append(expected)
            self._admission.record_output(output.request_id, len(output.token_ids), self._now)
            self.num_tokens += len(output.token_ids)
            if output.finish_reason is not None:
                self.num_ended += 1
                self._admission.release(output.request_id, self._now)
                if not self.arrival_rate:
                    self._push(self._now)


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * len(values))]


@pytest.fixture(scope="module")
def closed() -> Overload:
    return Overload(30.0).run()


def overload(closed: Overload, drift: Drift = steady, prompt_token_cost: float = 0.25) -> Overload:
    """FACTOR times as many arrivals as the closed loop got answered."""
    rate = FACTOR * closed.num_ended / closed.seconds
    return Overload(100.0, rate, drift, prompt_token_cost=prompt_token_cost).run()


@pytest.mark.parametrize(("drift", "prompt_token_cost"), [(steady, 0.25), (waves, 0.25), (falls, 0.08)])
def test_first_tokens_come_in_time_and_those_who_obey_get_in(
    closed: Overload, drift: Drift, prompt_token_cost: float
) -> None:
    """Also where the speed drifts, or the cost of a prompt token was measured badly at the start."""
    found = overload(closed, drift, prompt_token_cost)
    assert percentile(found.ttft, 0.95) <= 9.5
    assert sum(found.returns) >= 0.9 * len(found.returns) > 100
    assert found.num_tokens / found.seconds >= 0.9 * closed.num_tokens / closed.seconds


def excess(found: Overload) -> float:
    """How much longer first tokens took than the admission control expected, as a share of that."""
    return sum(found.ttft) / sum(found.expected) - 1


def test_the_expected_wait_has_no_bias(closed: Overload) -> None:
    assert abs(excess(overload(closed))) < 0.07


def test_it_has_one_where_half_of_the_prompts_in_the_slots_count_as_left(
    closed: Overload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: prompts are computed at once when a request gets its slot."""
    begin = Workload._begin

    def with_prompt(workload: Workload, request: EngineRequest) -> RunningWork:
        running = begin(workload, request)
        return replace(running, answer=running.work)

    monkeypatch.setattr(Workload, "_begin", with_prompt)
    assert excess(overload(closed)) > 0.15
