"""The engine in a thread of its own, behind `EngineClient`.

The event loop's thread and the engine's thread share three things: an inbox of commands, guarded by a condition on
which the engine's thread waits; the newest stats, replaced as a whole; and the time of the last step. The outputs of a
step go back in one call, when the kernels of the next step begin: so the event loop works while the engine's thread
does not need Python's lock. If the thread dies or hangs, the stats say that the engine is unhealthy, and every stream
still ends.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import replace

from server.engine.client.admission import UNKNOWN_SPEED, AdmissionControl, QueueLimits, Speed
from server.engine.client.base import EngineClosedError
from server.engine.engine import STEP_FAILED, Engine
from server.engine.types import EngineOutput, EngineRequest, EngineStats, FinishReason, LabelLoad, SchedulingParams

logger = logging.getLogger(__name__)

HANGING_AFTER = 300.0  # seconds in which no step ends although there is work: longer than any step should take
ABORT_SECONDS = 30.0  # how long the aborts after the grace period may take
ITERATIONS_BEFORE_WAKE_UP = 4  # of the event loop: enough to read the requests that came together
GIVEN_UP = (FinishReason.ABORT, FinishReason.TIMEOUT, FinishReason.ERROR)  # maybe before a first output

Command = EngineRequest | str  # a request to accept, or the id of one to abort


class OutputStream:
    """The outputs of one request in their order; it ends after the one with a finish reason.

    Every output passes through here. With a single reader, it takes half the time of an asyncio.Queue.
    """

    def __init__(self) -> None:
        self._outputs: deque[EngineOutput] = deque()
        self._arrival: asyncio.Future[None] | None = None  # the reader waits for it
        self._ended = False

    def __aiter__(self) -> "OutputStream":
        return self

    async def __anext__(self) -> EngineOutput:
        if self._ended:
            raise StopAsyncIteration
        while not self._outputs:
            self._arrival = asyncio.get_running_loop().create_future()
            await self._arrival
        output = self._outputs.popleft()
        self._ended = output.finish_reason is not None
        return output

    def put(self, output: EngineOutput) -> None:
        self._outputs.append(output)
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)


class AsyncLLM:
    """An `EngineClient`. Create, use and close it on one event loop; its thread starts at once."""

    def __init__(self, engine: Engine, speed: Speed = UNKNOWN_SPEED) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._streams: dict[str, OutputStream] = {}
        config = engine.config
        self._admission = AdmissionControl(
            QueueLimits(config.max_num_seqs, config.max_queue, config.max_queue_tokens, config.max_queue_wait), speed
        )
        self._closing = False
        self._dead = False
        self._progress = time.monotonic()  # when the last step ended, or work came after an idle time
        self._drained = asyncio.Event()
        self._drained.set()
        self._stats = engine.stats()
        self._inbox: list[Command] = []
        self._outputs: list[EngineOutput] = []  # of the engine's thread, to be handed over
        self._stopping = False
        self._wakeup = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def capacity(self) -> int:
        return self._admission.capacity

    def free_capacity(self, scheduling: SchedulingParams) -> int:
        return self._admission.free_capacity(scheduling)

    def expected_wait(self, scheduling: SchedulingParams) -> float:
        return self._admission.expected_wait(scheduling)

    def submit(self, request: EngineRequest, *, follow_up: bool = False) -> OutputStream:
        """Accept a request. Raises QueueFullError, EngineClosedError, or ValueError for one that cannot be served."""
        if self._closing:
            raise EngineClosedError("the engine is stopping and takes no new requests")
        self._engine.check(request)
        if request.request_id in self._streams:
            raise ValueError(f"request id {request.request_id!r} is in use: give each request an id of its own")
        now = time.monotonic()
        self._admission.admit(request, now, follow_up=follow_up)
        if not self._streams:
            self._progress = now
        stream = self._streams[request.request_id] = OutputStream()
        self._drained.clear()
        self._send([request], ITERATIONS_BEFORE_WAKE_UP)
        return stream

    def abort(self, request_id: str) -> None:
        """End a request at the next step. Unknown or finished ids are ignored."""
        if request_id in self._streams:
            self._send([request_id])

    @property
    def num_waiting(self) -> int:
        return max(len(self._streams) - self._stats.running, 0)

    def stats(self) -> EngineStats:
        """The stats after the newest step; requests that came since then count as waiting."""
        waiting = self.num_waiting
        hangs = bool(self._streams) and time.monotonic() - self._progress > HANGING_AFTER
        healthy = self._stats.healthy and not self._dead and not hangs
        return replace(self._stats, running=len(self._streams) - waiting, waiting=waiting, healthy=healthy)

    def task_loads(self, minutes: int) -> tuple[LabelLoad, ...]:
        return self._engine.task_loads(minutes)

    def tenant_loads(self, minutes: int) -> tuple[LabelLoad, ...]:
        return self._engine.tenant_loads(minutes)

    async def close(self, grace: float) -> None:
        """Refuse new requests, let the others finish for `grace` seconds, abort the rest, end the thread.

        A thread that hangs is abandoned after ABORT_SECONDS; as a daemon it ends with the process.
        """
        self._closing = True
        try:
            await asyncio.wait_for(self._drained.wait(), grace)
        except TimeoutError:
            self._send(list(self._streams))
            await self._until_drained()
        with self._wakeup:
            self._stopping = True
            self._wakeup.notify()
        if not self._dead:
            await asyncio.to_thread(self._thread.join)

    async def _until_drained(self) -> None:
        try:
            await asyncio.wait_for(self._drained.wait(), ABORT_SECONDS)
        except TimeoutError:
            logger.critical("a step does not end; %d requests end with an error", len(self._streams))
            self._abandon()

    def _abandon(self) -> None:
        """On the loop's thread: end all streams, because the engine will not answer any more."""
        self._closing = self._dead = True
        outputs = [
            EngineOutput(request_id, (), finish_reason=FinishReason.ERROR, error=STEP_FAILED)
            for request_id in self._streams
        ]
        self._deliver(outputs)
        self._drained.set()

    def _send(self, commands: Iterable[Command], iterations: int = 0) -> None:
        """Give the engine's thread commands, and wake it up after so many iterations of the event loop."""
        with self._wakeup:
            self._inbox.extend(commands)
        self._wake_up(iterations)

    def _wake_up(self, iterations: int) -> None:
        """Wake the engine's thread if it sleeps, after so many iterations of the event loop.

        Woken with the first of several requests, it would compute that prompt alone, and the event loop would wait for
        Python's lock to read the others.
        """
        if iterations:
            self._loop.call_soon(self._wake_up, iterations - 1)
            return
        with self._wakeup:
            self._wakeup.notify()

    def _deliver(self, outputs: list[EngineOutput]) -> None:
        """On the loop's thread: put a step's outputs into their streams."""
        now = time.monotonic()
        for output in outputs:
            if output.request_id not in self._streams:
                continue  # the request was given up while its step hung
            if output.finish_reason not in GIVEN_UP:
                self._admission.record_output(output.request_id, len(output.token_ids), now)
            if output.finish_reason is None:
                self._streams[output.request_id].put(output)
                continue
            self._streams.pop(output.request_id).put(output)
            self._admission.release(output.request_id, now)
        if not self._streams:
            self._drained.set()

    # The engine's thread. Small functions drop their references before it sleeps, so that requests can be freed.

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._work()
        except BaseException:
            logger.critical("the engine's thread died; only a restart helps", exc_info=True)
            self._hand_over()
            self._loop.call_soon_threadsafe(self._abandon)
        finally:
            self._engine.close()

    def _wait_for_work(self) -> bool:
        """Sleep until there is something to do; False when the engine is to stop."""
        with self._wakeup:
            while not (self._inbox or self._engine.has_unfinished or self._stopping):
                self._wakeup.wait()
            return not self._stopping

    def _work(self) -> None:
        outputs: list[EngineOutput] = []
        try:
            while (command := self._next_command()) is not None:
                outputs += self._execute(command)
            outputs += self._engine.step(self._hand_over)
        except Exception:
            logger.exception("the engine failed outside a step; all its requests end with an error")
            outputs += self._engine.fail_all()
        self._stats, self._progress = self._engine.stats(), time.monotonic()
        self._outputs += outputs
        if not self._engine.has_unfinished:
            self._hand_over()

    def _hand_over(self) -> None:
        """Give the outputs of earlier steps to the event loop."""
        if self._outputs:
            self._loop.call_soon_threadsafe(self._deliver, self._outputs)
            self._outputs = []

    def _next_command(self) -> Command | None:
        with self._wakeup:
            return self._inbox.pop(0) if self._inbox else None

    def _execute(self, command: Command) -> list[EngineOutput]:
        if isinstance(command, str):
            return self._engine.abort(command)
        self._engine.submit(command)
        return []
