"""The ASGI application in front: passes requests on to replicas of the engine, and their answers to clients."""

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from server.api.anthropic.answers import EVENTS as ANTHROPIC
from server.api.ollama.answers import NDJSON
from server.api.responses.events import EVENTS as RESPONSES
from server.api.sse import OPENAI, StreamFormat
from server.errors import BodyTooLargeError, ClientGoneError, RequestError, UnavailableError
from server.ray_serve.forwarding import ForwardedRequest, Messages, read_request
from server.ray_serve.prefix_index import prefix_digests

logger = logging.getLogger(__name__)

# Sends a request to a replica. Iterating raises UnavailableError when no replica answers, or not to the end.
Forward = Callable[[ForwardedRequest], AsyncGenerator[Messages, None]]


class Gateway:
    """Keeps nothing of a request but its prefix digests, so there can be any number of gateways.

    A request whose replica dies gets 503 with `Retry-After`; if its stream has begun, one last event with that error.
    """

    def __init__(self, forward: Forward, max_body_bytes: int) -> None:
        self._forward = forward
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = _Response(scope["path"], send)
        try:
            request = await self._read(scope, receive)
            async with aclosing(self._forward(request)) as answer:
                async for messages in answer:
                    await response.send(messages)
            if not response.complete:
                raise UnavailableError("The replica ended this answer before it was complete.", retry_after=1)
        except ClientGoneError:
            pass
        except RequestError as error:
            logger.info("%s: %s", type(error).__name__, error.message)
            await response.fail(error)

    async def _read(self, scope: Scope, receive: Receive) -> ForwardedRequest:
        try:
            request = await read_request(scope, receive)
        except HTTPException:  # from BodyLimit
            raise BodyTooLargeError(self._max_body_bytes) from None
        return replace(request, prefix_digests=prefix_digests(request.body))


class _Response:
    """What a client has received so far."""

    def __init__(self, path: str, send: Send) -> None:
        self.complete = False
        self._path = path
        self._send = send
        self._stream_format: StreamFormat | None = None  # of a stream that has begun
        self._begun = False

    async def send(self, messages: Messages) -> None:
        for message in messages:
            if message["type"] == "http.response.start":
                self._begin(message)
            else:
                self.complete = not message.get("more_body", False)
            await self._send(message)

    def _begin(self, message: Message) -> None:
        self._begun = True
        stream_format = _stream_format(self._path)
        if Headers(raw=message["headers"]).get("content-type", "").startswith(stream_format.media_type):
            self._stream_format = stream_format

    async def fail(self, error: RequestError) -> None:
        """The last that the client gets. Raises `error`, which ends the connection, if a body that is no stream of
        events has begun: its client must not take it for complete.
        """
        if not self._begun:
            await JSONResponse(error.body(self._path), error.status, error.headers())(
                {"type": "http"}, _nothing, self._send
            )
        elif self._stream_format is not None:
            events = self._stream_format
            last = events.encode(events.error(error)) + events.end
            await self._send({"type": "http.response.body", "body": last, "more_body": False})
        elif not self.complete:
            raise error


def _stream_format(path: str) -> StreamFormat:
    """Of the API to which a path belongs, in any of its spellings."""
    first = path.removeprefix("/v1").strip("/").partition("/")[0]
    if path.startswith("/api/"):
        return NDJSON
    return {"messages": ANTHROPIC, "responses": RESPONSES}.get(first, OPENAI)


async def _nothing() -> Message:
    raise AssertionError("a whole answer is sent without reading")
