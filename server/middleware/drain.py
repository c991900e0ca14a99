"""Drain: from SIGTERM to exit. Accepted requests finish, new ones are refused, then the process ends with 0.

What is accepted is told by the HTTP request, not by the generations it takes: a long text is many of them, and the
later ones must not be refused.
"""

import asyncio
import logging
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import uvicorn
from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import UnavailableError

logger = logging.getLogger(__name__)


class Drain:
    """Closes the engine once, after what is being answered. `begun` is what /health/ready looks at."""

    def __init__(self, grace: float) -> None:
        self.begun = False
        self.close_engine: Callable[[float], Awaitable[None]] | None = None  # set once there is an engine
        self._grace = grace
        self._closing: asyncio.Task[None] | None = None
        self._answering = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Around each request that is to be finished."""
        self._answering += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._answering -= 1
            if self._answering == 0:
                self._idle.set()

    async def finish(self) -> None:
        """Refuse new requests, wait for the accepted ones up to the grace period, stop the engine. Safe to repeat."""
        self.begun = True
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        """The engine gets what is left of the grace period."""
        end = time.monotonic() + self._grace
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), self._grace)
        if self.close_engine is not None:
            await self.close_engine(max(end - time.monotonic(), 0.0))


class DrainGate:
    """Middleware: lets every POST finish that came before the drain began, and answers 503 to later ones.

    Answers close their connections from then on: a client that keeps one open would come back to this server with it.
    """

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app, self._drain = app, drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start" and self._drain.begun:
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, closing)
        elif self._drain.begun:
            scope["app"].state.metrics.rejected("draining")
            error = UnavailableError("The server is stopping and takes no new requests.", retry_after=1)
            await JSONResponse(error.body(), error.status, error.headers())(scope, receive, closing)
        else:
            with self._drain.answering():
                await self._app(scope, receive, closing)


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
