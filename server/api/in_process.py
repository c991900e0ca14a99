"""Requests of batches, answered by the application itself, in this process and without a connection.

A batch must give the same answers as the HTTP endpoints: the same validation, defaults, warnings and errors. So its
requests take the same routes and exception handlers; a second way into the engine would have to be kept equal to
them by hand. Only the middleware is left out: the API key was checked when the batch was created, the size of a line
when it was validated, and neither the log nor the counters of HTTP requests are about requests that no client sent.
"""

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.types import Message

from server.batches.executor import BatchResponse
from server.batches.types import new_id
from server.generation.service import GenerationService

logger = logging.getLogger(__name__)


class InProcessExecutor:
    """A `RequestExecutor` that posts to the routes of `app`, with its state."""

    def __init__(self, app: FastAPI) -> None:
        self._app = FastAPI(
            routes=app.routes,
            exception_handlers=dict(app.exception_handlers),
            openapi_url=None,
            telemetry={"logs": False},
        )
        self._app.state = app.state
        self._running = 0

    def is_free(self) -> bool:
        """Whether no request of a client waits. While there are clients, those of batches that wait count for them."""
        service: GenerationService = self._app.state.service
        stats = service.engine.stats()
        return stats.waiting == 0 or stats.running + stats.waiting <= self._running

    async def __call__(self, url: str, body: bytes) -> BatchResponse:
        """Post a JSON body. An exception that no handler takes is answered with 500, as over HTTP."""
        exchange = _Exchange(body)
        request_id = new_id("")
        self._running += 1
        try:
            await self._app(_scope(url, request_id), exchange.receive, exchange.send)
        except Exception:
            logger.exception("a request of a batch failed")
        finally:
            self._running -= 1
        retry_after = exchange.headers.get("retry-after")
        return BatchResponse(
            exchange.status, request_id, bytes(exchange.body), None if retry_after is None else float(retry_after)
        )


@dataclass
class _Exchange:
    """One request, and its response as it arrives. The client never leaves: cancelling the call ends the request."""

    request: bytes
    status: int = 500
    headers: Headers = field(default_factory=Headers)
    body: bytearray = field(default_factory=bytearray)
    _sent: bool = False

    async def receive(self) -> Message:
        if self._sent:
            await asyncio.Event().wait()
        self._sent = True
        return {"type": "http.request", "body": self.request, "more_body": False}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], Headers(raw=message["headers"])
        else:
            self.body += message.get("body", b"")


def _scope(url: str, request_id: str) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": url,
        "raw_path": url.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "client": None,
        "server": None,
        "state": {},
        "request_id": request_id,
    }
