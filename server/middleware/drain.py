"""Drain: between SIGTERM and exit, accepted requests finish and new ones are refused.

Whole HTTP requests are counted, not generations: a long translation takes many generations, and those that start after
the drain has begun must not be refused.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import UnavailableError


class Drain:
    """Counts the requests being answered, and closes the engine when they are done. /health/ready reads `begun`."""

    def __init__(self, grace: float) -> None:
        self.begun = False
        self.close_engine: Callable[[float], Awaitable[None]] | None = None  # set when the engine has started
        self.stop_background: Callable[[], Awaitable[object]] | None = None  # ends work that no client waits for
        self._grace = grace
        self._closing: asyncio.Task[None] | None = None
        self._answering = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._cut_short = asyncio.Event()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Wraps the handling of a request that the drain must wait for."""
        self._answering += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._answering -= 1
            if self._answering == 0:
                self._idle.set()

    def cut_short(self) -> None:
        """Let `finish` end the requests that still run now, with an error for each."""
        self._cut_short.set()

    async def finish(self) -> None:
        """Refuse new requests, wait for accepted ones up to the grace period, close the engine. Can be called again."""
        self.begun = True
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        """Wait for running requests; the engine gets the rest of the grace period to close."""
        end = time.monotonic() + self._grace
        waits = [asyncio.create_task(wait) for wait in (self._nothing_running(), self._cut_short.wait())]
        await asyncio.wait(waits, timeout=self._grace, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if self.close_engine is not None:
            await self.close_engine(0.0 if self._cut_short.is_set() else max(end - time.monotonic(), 0.0))

    async def _nothing_running(self) -> None:
        if self.stop_background is not None:
            await self.stop_background()
        await self._idle.wait()


class DrainGate:
    """Middleware that answers 503 to every POST that arrives after the drain has begun.

    During the drain every response carries `Connection: close`, so that clients open their next connection elsewhere.
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
            await JSONResponse(error.body(scope["path"]), error.status, error.headers())(scope, receive, closing)
        else:
            with self._drain.answering():
                await self._app(scope, receive, closing)
