"""Drain: from SIGTERM to exit. Running requests finish, new ones are refused, then the process ends with 0."""

import asyncio
import logging
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

logger = logging.getLogger(__name__)


class Drain:
    """Closes the engine once, with a grace period. `begun` is what /health/ready looks at."""

    def __init__(self, grace: float) -> None:
        self.begun = False
        self.close_engine: Callable[[float], Awaitable[None]] | None = None  # set once there is an engine
        self._grace = grace
        self._closing: asyncio.Task[None] | None = None

    async def finish(self) -> None:
        """Refuse new requests, wait for the running ones up to the grace period, stop the engine. Safe to repeat."""
        self.begun = True
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self.close_engine is not None:
            await self.close_engine(self._grace)


class DrainingServer(uvicorn.Server):
    """uvicorn that goes on answering while it drains: probes see 503 and new requests a clear refusal.

    The listener closes when the last answer is out or the grace period is over. A second signal ends at once.
    """

    def __init__(self, config: uvicorn.Config, drain: Drain) -> None:
        super().__init__(config)
        self._drain = drain
        self._draining: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The signal handler: only sets flags; `on_tick` acts on them."""
        if self._drain.begun:
            self.should_exit = self.force_exit = True
        self._drain.begun = True

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second on the event loop. True ends the main loop."""
        if self._drain.begun and self._draining is None:
            logger.info("draining: running requests finish, new ones are refused")
            self._draining = asyncio.create_task(self._drain.finish())
        drained = self._draining is not None and self._draining.done()
        return await super().on_tick(counter) or drained

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Unlike uvicorn's, does not raise the signal again at the end: a drained server exits with 0."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals reach the main thread only: whoever runs this server in another one ends it
            return
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
