"""The interface of the engine for the rest of the server: submit, abort, stats, close."""

from collections.abc import AsyncIterator
from typing import Protocol

from server.engine.types import EngineOutput, EngineRequest, EngineStats, LabelLoad, SchedulingParams


class QueueFullError(Exception):
    """The waiting queue is full. A client that returns after `retry_after` seconds finds a place."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"the queue is full; a place is expected in {retry_after:.0f} s")
        self.retry_after = retry_after


class DeadlineError(QueueFullError):
    """The turn of a request is expected after its deadline. After `retry_after` seconds it may come in time."""


class EngineClosedError(Exception):
    """The engine is draining or stopped and takes no new requests."""


class EngineClient(Protocol):
    """What the rest of the server needs from an engine. Call all methods on the event loop's thread."""

    @property
    def capacity(self) -> int:
        """How many requests may run and wait at once."""
        ...

    def free_capacity(self, scheduling: SchedulingParams) -> int:
        """How many more requests of a tenant and priority it would take now."""
        ...

    def expected_wait(self, scheduling: SchedulingParams) -> float:
        """Seconds until a request of a tenant and priority has its turn, by the rate of the recent past; 0 if nothing
        is known.
        """
        ...

    def submit(self, request: EngineRequest, *, follow_up: bool = False) -> AsyncIterator[EngineOutput]:
        """Accept `request` and return its outputs; the last one has a finish reason.

        A `follow_up` belongs to a client's request that was accepted before: only `free_capacity` bounds it.

        Raises QueueFullError, DeadlineError or EngineClosedError at once, never later: a returned iterator always ends
        with an output that has a finish reason.
        """
        ...

    def abort(self, request_id: str) -> None:
        """End a request before the next step and free its memory. Unknown and finished ids are ignored."""
        ...

    @property
    def num_waiting(self) -> int:
        """How many requests wait, as in `stats()`."""
        ...

    def stats(self) -> EngineStats:
        """The newest snapshot of the engine's counters."""
        ...

    def task_loads(self, minutes: int) -> tuple[LabelLoad, ...]:
        """The experts' load of the last minutes by task."""
        ...

    def tenant_loads(self, minutes: int) -> tuple[LabelLoad, ...]:
        """The same by tenant, without the requests that have none."""
        ...

    async def close(self, grace: float) -> None:
        """Refuse new requests, let running ones finish for `grace` seconds, abort the rest, stop the engine."""
        ...
