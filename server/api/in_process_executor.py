"""Requests of batches, answered by the application itself, in this process and without a connection.

A batch must give the same answers as the HTTP endpoints: the same validation, defaults, warnings and errors. So its
requests take the same routes and exception handlers; a second way into the engine would have to be kept equal to
them by hand. Only the middleware is left out. What it checks is checked elsewhere: the API key here, the size of a
line when the batch is validated. The log and the counters of HTTP requests are about requests that clients send.
"""

import asyncio
import json
import logging
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.types import Message

from server.asgi import http_scope
from server.batches.executor import BatchResponse
from server.batches.types import new_id
from server.errors import RequestError, UnauthorizedError
from server.generation.service import GenerationService
from server.middleware.api_keys import ApiKeys, KeyScope
from server.middleware.auth import check_scopes

JSON = ((b"content-type", b"application/json"),)

logger = logging.getLogger(__name__)


class InProcessExecutor:
    """A `RequestExecutor` that posts to the routes of `app`, with its state.

    A request has the identity of the API key that made the batch: its limits per minute, its cache salt, and its
    priority, after all requests of clients. Once the key is gone, requests get 401; without the scope `batches`, 403.
    Batches of the time before the server had keys get 401 too: no limits apply to them, and no key sees their results.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = FastAPI(
            routes=app.routes,
            exception_handlers=dict(app.exception_handlers),
            openapi_url=None,
            telemetry={"logs": False},
        )
        self._app.state = app.state
        self._keys: ApiKeys = app.state.api_keys
        self._running = 0

    def is_free(self) -> bool:
        """Whether no request of a client waits.

        Whose requests wait is not known, so where clients have requests in the engine, any that waits may be theirs.
        """
        service: GenerationService = self._app.state.service
        stats = service.engine.stats()
        return stats.waiting == 0 or stats.running + stats.waiting <= self._running

    async def __call__(self, owner: str, url: str, body: bytes) -> BatchResponse:
        """Post a JSON body. An exception that no handler takes is answered with 500, as over HTTP."""
        request_id = new_id("")
        scope = http_scope("POST", url, JSON) | {"request_id": request_id, "is_batch": True}
        try:
            scope |= self._identity(owner)
        except RequestError as error:
            content = json.dumps(error.body()).encode()
            return BatchResponse(error.status, request_id, content, error.retry_after)
        exchange = _Exchange(body)
        self._running += 1
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Exception:
            logger.exception("a request of a batch failed")
        finally:
            self._running -= 1
        return exchange.response(request_id)

    def _identity(self, owner: str) -> dict[str, Any]:
        """What ApiKeyAuth adds to a scope. Raises UnauthorizedError, ForbiddenError and RateLimitError."""
        if not self._keys.requires_key:
            return {}
        if not owner:
            raise UnauthorizedError(
                "This batch was made while the server had no API keys and belongs to none: create it again with a key."
            )
        key = self._keys.named(owner)
        if key is None:
            raise UnauthorizedError("The API key that made this batch is not in use any more.")
        check_scopes(key, frozenset({KeyScope.BATCHES}))
        self._keys.usage_of(key).count_request(key)
        return {"api_key": key}


@dataclass
class _Exchange:
    """One request, and its response as it arrives. The client never leaves: cancelling the call ends the request."""

    request: bytes
    status: int = 500
    headers: Headers = field(default_factory=Headers)
    body: bytearray = field(default_factory=bytearray)
    _sent: bool = False

    def response(self, request_id: str) -> BatchResponse:
        """What was sent; without a body if the application raised before there was one."""
        retry_after = self.headers.get("retry-after")
        body = bytes(self.body) if self.body else b"null"
        return BatchResponse(self.status, request_id, body, None if retry_after is None else float(retry_after))

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
