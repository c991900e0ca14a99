"""The server of the bundled model with faults: steps fail at random, and the wall clock jumps. For `benchmarks.chaos`.

    python -m benchmarks.faulty_server --port 8000

Faults are put into this process alone; no setting of a real server makes any. /metrics also counts the event loop's
tasks.
"""

import argparse
import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

from prometheus_client import Gauge

from server.commands.common.logs import configure_logging
from server.engine.runner import ModelRunner
from server.engine.scheduler import Scheduler
from server.settings import Settings
from server.startup.app import Backend
from server.startup.backend import prepare_backend
from server.startup.listeners import bound
from server.startup.uvicorn_server import run

STEPS_PER_FAILURE = 150  # of the network, which ends the sequences of the step
SCHEDULES_PER_FAILURE = 1500  # of the engine's bookkeeping, which ends all requests
JUMP_EVERY, MOST_JUMP = 5.0, 3600.0  # seconds between two jumps of the clock, and how far it jumps at most
TASKS = "chaos:event_loop_tasks"


def sometimes_failing(method: Callable[..., Any], calls_per_failure: int) -> Callable[..., Any]:
    """The method, but about one of so many calls raises. Several in a row, which make a server unhealthy, are rare."""
    draw = random.Random(1)

    def failing(*arguments: Any) -> Any:
        if draw.randrange(calls_per_failure) == 0:
            raise RuntimeError("a fault of benchmarks.faulty_server")
        return method(*arguments)

    return failing


class JumpingClock:
    """Stands for time.time. The monotonic clock goes on: no administrator can set it."""

    def __init__(self) -> None:
        self._time, self._offset = time.time, 0.0

    def __call__(self) -> float:
        return self._time() + self._offset

    async def jump(self) -> None:
        """Forward and backward, until this is cancelled."""
        while True:
            await asyncio.sleep(JUMP_EVERY)
            self._offset = random.uniform(-MOST_JUMP, MOST_JUMP)


def with_faults(open_backend: Callable[[], Backend]) -> Callable[[], Backend]:
    """The function that starts the engine also sets the clock, and counts tasks. It runs on the event loop."""

    def open_it() -> Backend:
        backend, loop = open_backend(), asyncio.get_running_loop()
        clock = JumpingClock()
        time.time, time.time_ns = clock, lambda: int(clock() * 1e9)
        jumping = loop.create_task(clock.jump())
        tasks = Gauge(TASKS, "Tasks of the event loop.", registry=backend.metrics.registry)
        # The function also holds the task that makes the clock jump; without that task there is nothing to count.
        tasks.set_function(lambda: len(asyncio.all_tasks(loop)) if not jumping.done() else float("nan"))
        return backend

    return open_it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000)
    settings = Settings(port=parser.parse_args().port, drain_grace=5, threads=1, cache_bytes=2**28)
    configure_logging("warning")
    ModelRunner.execute = sometimes_failing(ModelRunner.execute, STEPS_PER_FAILURE)  # type: ignore[method-assign]
    Scheduler.schedule = sometimes_failing(Scheduler.schedule, SCHEDULES_PER_FAILURE)  # type: ignore[method-assign]
    with bound(settings) as listeners:
        run(settings, with_faults(prepare_backend(settings)), listeners)


if __name__ == "__main__":
    main()
