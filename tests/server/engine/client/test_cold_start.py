"""Whether clients that burst upon a server which has just started get in when they were told to come back."""

import heapq
import random
from dataclasses import dataclass, field, replace
from itertools import count

import pytest

from server.engine.client.admission import AdmissionControl, QueueLimits, Speed
from server.engine.client.base import QueueFullError
from server.engine.types import EngineRequest, GenerateRequest, SamplingParams

LIMITS = QueueLimits(max_running=16, max_queue=32, max_tokens=100_000, max_wait=10.0)
PROMPT_TOKEN_COST = 0.2
MAX_PREFILL = 256  # tokens of a step
FAST, SLOW = 1000.0, 50.0  # generated tokens per second of a full batch
TRAVEL = 0.02  # seconds from a client to the server


@dataclass
class Burst:
    """Clients that all come within `seconds` and obey Retry-After, and a server that computes step by step."""

    num_clients: int
    tokens_per_second: float
    seconds: float = 0.05
    error: float = 1.0  # the speed that the server expects of itself, as a share of the true one; 0: not known
    is_mixed: bool = True  # answers and prompts have different lengths
    is_identical: bool = False
    obey: bool = True
    waits: list[int] = field(default_factory=list)  # what the refused were told
    returns: list[bool] = field(default_factory=list)  # whether the first return was accepted
    ended: float = 0.0

    def run(self) -> "Burst":
        self._random, self._numbers = random.Random(0), count()
        self._admission = AdmissionControl(LIMITS, Speed(self.error * self.tokens_per_second, PROMPT_TOKEN_COST))
        self._arrivals: list[tuple[float, int, EngineRequest, int]] = []
        self._queue: list[EngineRequest] = []
        self._running: dict[str, int] = {}  # tokens to come
        for _ in range(self.num_clients):
            self._push(self._random.uniform(0, self.seconds), self._request(), 0)
        self.work = sum(self._work(request) for _, _, request, _ in self._arrivals)
        now = 0.0
        while self._arrivals or self._queue or self._running:
            if not (self._queue or self._running):
                now = max(now, self._arrivals[0][0])
                self._arrive(now)
            now = self._step(now)
        self.ended = now
        return self

    def _request(self) -> EngineRequest:
        number = next(self._numbers)
        prompt = self._random.choice([8, 30, 200]) if self.is_mixed else 30
        answer = self._random.choice([20, 60, 140]) if self.is_mixed else 70
        start = 0 if self.is_identical else 1000 * number
        return GenerateRequest(f"c{number}", tuple(range(start, start + prompt)), SamplingParams(max_tokens=answer))

    def _work(self, request: EngineRequest) -> float:
        return len(request.prompt_token_ids) * PROMPT_TOKEN_COST + request.sampling.max_tokens

    def _push(self, time: float, request: EngineRequest, attempt: int) -> None:
        heapq.heappush(self._arrivals, (time, next(self._numbers), request, attempt))

    def _arrive(self, until: float) -> None:
        while self._arrivals and self._arrivals[0][0] <= until:
            now, _, request, attempt = heapq.heappop(self._arrivals)
            request = replace(request, request_id=f"r{next(self._numbers)}")
            accepted = True
            try:
                self._admission.admit(request, now)
                self._queue.append(request)
            except QueueFullError as refusal:
                accepted = False
                self.waits.append(int(refusal.retry_after))
                seconds = refusal.retry_after if self.obey else self._random.uniform(0, 10)
                self._push(now + seconds + self._random.uniform(0.1, 1) * TRAVEL, request, attempt + 1)
            if attempt == 1:
                self.returns.append(accepted)

    def _step(self, now: float) -> float:
        """Compute a step; clients come meanwhile. Returns when it ends."""
        decodes, prefill, first = list(self._running), 0, list[EngineRequest]()
        while self._queue and len(self._running) + len(first) < LIMITS.max_running and prefill < MAX_PREFILL:
            first.append(self._queue.pop(0))
            prefill += len(first[-1].prompt_token_ids)
        batch = max(len(decodes), LIMITS.max_running // 2) if decodes else 0
        end = now + (prefill * PROMPT_TOKEN_COST + batch) / self.tokens_per_second
        self._arrive(end)
        for request in first:
            self._running[request.request_id] = request.sampling.max_tokens
        for request_id in (*decodes, *(request.request_id for request in first)):
            self._admission.record_output(request_id, 1, end)
            self._running[request_id] -= 1
            if not self._running[request_id]:
                del self._running[request_id]
                self._admission.release(request_id, end)
        return end

    @property
    def accepted(self) -> float:
        return sum(self.returns) / len(self.returns)

    @property
    def drain(self) -> float:
        return self.work / self.tokens_per_second


def assert_honest(burst: Burst) -> None:
    assert len(burst.returns) >= 30
    assert burst.accepted >= 0.9
    assert max(burst.waits) <= 2 * burst.drain
    assert burst.ended <= 2 * burst.drain


@pytest.mark.parametrize(("is_mixed", "is_identical"), [(True, False), (False, False), (False, True)])
@pytest.mark.parametrize(("tokens_per_second", "num_clients"), [(FAST, 200), (SLOW, 100)])
def test_who_bursts_upon_a_fresh_server_gets_in_at_the_first_return(
    tokens_per_second: float, num_clients: int, *, is_mixed: bool, is_identical: bool
) -> None:
    assert_honest(Burst(num_clients, tokens_per_second, is_mixed=is_mixed, is_identical=is_identical).run())


@pytest.mark.parametrize("error", [0.8, 1.2])
@pytest.mark.parametrize("tokens_per_second", [FAST, SLOW])
def test_the_speed_need_not_be_measured_exactly(tokens_per_second: float, error: float) -> None:
    assert_honest(Burst(100, tokens_per_second, error=error).run())


def test_first_tokens_show_the_speed_where_none_was_measured() -> None:
    """Before any request has ended, while clients still come."""
    assert_honest(Burst(200, FAST, seconds=5.0, error=0.0).run())


def test_without_any_knowledge_of_the_speed_clients_return_in_vain() -> None:
    """The control: it is the speed measured at the start that keeps the promise."""
    assert Burst(200, SLOW, error=0.0).run().accepted < 0.5


def test_who_does_not_obey_is_mostly_refused() -> None:
    """The control: it is the return windows that keep the places."""
    assert Burst(200, FAST, obey=False).run().accepted < 0.5
