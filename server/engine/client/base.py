"""The engine as the rest of the server sees it: submit, abort, stats, close."""

from collections.abc import AsyncIterator
from typing import Protocol

from server.engine.types import EngineOutput, EngineRequest, EngineStats


class QueueFullError(Exception):
    """The waiting queue is at its bound. `retry_after` is the predicted wait in seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"the queue is full; a place is expected in {retry_after:.1f} s")
        self.retry_after = retry_after


class EngineClosedError(Exception):
    """The engine is draining or stopped and takes no new requests."""


class EngineClient(Protocol):
    """What the text layer needs of an engine. All methods are called on the event loop's thread."""

    @property
    def capacity(self) -> int:
        """How many requests may run and wait at once."""
        ...

    @property
    def free_capacity(self) -> int:
        """How many more requests it would take at this moment."""
        ...

    def submit(self, request: EngineRequest) -> AsyncIterator[EngineOutput]:
        """Accept `request` and return its outputs; the last one has a finish reason.

        Raises QueueFullError or EngineClosedError at once, never later: a returned iterator always ends properly.
        """
        ...

    def abort(self, request_id: str) -> None:
        """End a request at the next step and free its memory. Unknown or finished ids are ignored."""
        ...

    def stats(self) -> EngineStats:
        """The newest snapshot of the engine's counters."""
        ...

    async def close(self, grace: float) -> None:
        """Refuse new requests, let running ones finish for `grace` seconds, abort the rest, stop the engine."""
        ...
