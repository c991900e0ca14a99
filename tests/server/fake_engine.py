"""An EngineClient without a model: deterministic answers, real asynchrony, and every way to end a request."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from server.engine.client.base import EngineClosedError, QueueFullError
from server.engine.types import (
    EngineOutput,
    EngineRequest,
    EngineStats,
    FinishReason,
    LabelLoad,
    LayerLoad,
    RequestTimes,
    ReturnedRouting,
    SchedulingParams,
    TokenLogprobs,
    TokenRouting,
)

Answer = Callable[[EngineRequest], Sequence[int]]


def logprob_of(token_id: int, position: int) -> float:
    """A made-up log-probability: a function of token and place alone."""
    return -((token_id * 31 + position * 17) % 97 + 1) / 40


def routed(token_id: int, asked: ReturnedRouting | None) -> tuple[TokenRouting, ...]:
    """A made-up routing to two experts of each layer: a function of the token alone."""
    if asked is None:
        return ()
    experts = tuple(((token_id + layer) % 4, (token_id + layer + 1) % 4)[: asked.top] for layer in asked.layers)
    return (TokenRouting(experts, tuple((0.75, 0.25)[: asked.top] for _ in asked.layers)),)


def scored(token_id: int, position: int, top: int | None) -> TokenLogprobs:
    others = tuple((token, logprob_of(token, position)) for token in range(40, 40 + (top or 0)))
    return TokenLogprobs(token_id, logprob_of(token_id, position), tuple(sorted(others, key=lambda pair: -pair[1])))


@dataclass
class FakeEngine:
    """Answers with `answer(request)`, one token a step of `step_seconds`; then the first of `eos`, if there is room."""

    answer: Answer
    eos: tuple[int, ...] = (2, 0)
    step_seconds: float = 0.0
    capacity: int = 1000
    occupied: int = 0  # places that others have
    retry_after: float = 2.3
    cached_tokens: int = 0
    fail_after: int | None = None
    healthy: bool = True
    loads: tuple[LabelLoad, ...] = ()
    by_tenant: tuple[LabelLoad, ...] = ()
    experts_per_token: int | None = None  # what an adaptive engine chooses
    submitted: list[EngineRequest] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    closed_with: list[float] = field(default_factory=list)
    _running: dict[str, asyncio.Event] = field(default_factory=dict)
    _closed: bool = False
    seconds_to_wait: float = 0.0
    _prompt_tokens: int = 0
    _generation_tokens: int = 0

    def submit(self, request: EngineRequest, *, follow_up: bool = False) -> AsyncIterator[EngineOutput]:
        if self._closed:
            raise EngineClosedError
        if self.free_capacity() < 1:
            raise QueueFullError(self.retry_after)
        assert request.request_id not in self._running
        self.submitted.append(request)
        self._running[request.request_id] = asyncio.Event()
        self._prompt_tokens += len(request.prompt_token_ids)
        outputs: asyncio.Queue[EngineOutput] = asyncio.Queue()
        task = asyncio.create_task(self._run(request, outputs))
        return self._read(outputs, task)

    def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)
        if request_id in self._running:
            self._running[request_id].set()

    @property
    def num_waiting(self) -> int:
        return 0

    def stats(self) -> EngineStats:
        return EngineStats(
            running=len(self._running),
            waiting=0,
            kv_blocks_used=len(self._running),
            kv_blocks_total=100,
            state_slots_used=len(self._running),
            state_slots_total=64,
            snapshots_used=3,
            snapshots_total=10,
            prompt_tokens=self._prompt_tokens,
            generation_tokens=self._generation_tokens,
            prefix_cache_queries=self._prompt_tokens,
            prefix_cache_hits=7,
            preemptions=0,
            steps=5,
            step_failures=1,
            healthy=self.healthy,
            layers=(LayerLoad(0, (30, 10), 0.6, 0.5), LayerLoad(3, (1, 3), 0.5, 0.5)),
        )

    def tenant_loads(self, minutes: int) -> tuple[LabelLoad, ...]:
        return self.by_tenant[:minutes]

    def task_loads(self, minutes: int) -> tuple[LabelLoad, ...]:
        return self.loads[:minutes]

    async def close(self, grace: float) -> None:
        self._closed = True
        self.closed_with.append(grace)
        deadline = time.monotonic() + grace
        while self._running and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        for stopped in self._running.values():
            stopped.set()
        while self._running:  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    def expected_wait(self, scheduling: SchedulingParams) -> float:
        return self.seconds_to_wait

    def free_capacity(self, scheduling: SchedulingParams = SchedulingParams()) -> int:  # noqa: B008
        return self.capacity - self.occupied - len(self._running)

    @property
    def running(self) -> int:
        return len(self._running)

    async def _read(
        self, outputs: asyncio.Queue[EngineOutput], task: asyncio.Task[None]
    ) -> AsyncIterator[EngineOutput]:
        while True:
            output = await outputs.get()
            yield output
            if output.finish_reason is not None:
                await task
                return

    async def _run(self, request: EngineRequest, outputs: asyncio.Queue[EngineOutput]) -> None:
        stopped, sampling = self._running[request.request_id], request.sampling
        times = RequestTimes(request.arrival_time, request.arrival_time + 0.001, request.arrival_time + 0.002)
        first_scored = max((1, *request.boundaries[-1:]))
        prompt_logprobs = tuple(
            scored(token, place, sampling.logprobs)
            for place, token in enumerate(request.prompt_token_ids)
            if place >= first_scored
        )
        asked = request.routing.returned
        prompt_routing = tuple(entry for token in request.prompt_token_ids for entry in routed(token, asked))
        if asked is None or not asked.prompt:
            prompt_routing = ()
        answer = [*self.answer(request), *self.eos[:1]][: sampling.max_tokens]
        if not answer:
            await asyncio.sleep(self.step_seconds)
        first, deadline = True, request.scheduling.deadline or math.inf
        for place, token in enumerate(answer):
            await asyncio.sleep(self.step_seconds)
            if (
                stopped.is_set()
                or time.monotonic() >= deadline
                or (self.fail_after is not None and place >= self.fail_after)
            ):
                break
            self._generation_tokens += 1
            is_end = token in self.eos or token in sampling.stop_token_ids
            reason = FinishReason.STOP if is_end else FinishReason.LENGTH if place == len(answer) - 1 else None
            outputs.put_nowait(
                EngineOutput(
                    request.request_id,
                    (token,),
                    (scored(token, place, sampling.logprobs),) if sampling.logprobs is not None else (),
                    prompt_logprobs if first and sampling.prompt_logprobs else (),
                    self.cached_tokens,
                    reason,
                    times=RequestTimes(times.arrival, times.scheduled, times.first_token, time.monotonic()),
                    routing=routed(token, asked),
                    prompt_routing=prompt_routing if first else (),
                    experts_per_token=self.experts_per_token if request.routing.experts_per_token is None else None,
                )
            )
            first = False
            if reason is not None:
                del self._running[request.request_id]
                return
        failed = self.fail_after is not None and not stopped.is_set()
        reason = FinishReason.ABORT if stopped.is_set() else FinishReason.ERROR if failed else FinishReason.LENGTH
        reason = FinishReason.TIMEOUT if time.monotonic() >= deadline else reason
        outputs.put_nowait(
            EngineOutput(
                request.request_id,
                (),
                prompt_logprobs=prompt_logprobs if first and sampling.prompt_logprobs else (),
                num_cached_tokens=self.cached_tokens,
                finish_reason=reason,
                error="the step failed" if failed else None,
                times=times,
            )
        )
        del self._running[request.request_id]
