"""Streams: an iterator of JSON objects in the form of an API, kept open while nothing comes, with errors and an end."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi.sse import format_sse_event
from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.api.disconnect import cancelled_on_disconnect
from server.errors import EngineFailedError, RequestError

logger = logging.getLogger(__name__)

Event = dict[str, Any]
Events = AsyncGenerator[Event, None]

_LINE_SEPARATORS = [(character.encode(), b"\\u%04x" % ord(character)) for character in "\u0085\u2028\u2029"]


@dataclass(frozen=True, slots=True)
class StreamFormat:
    """How an API sends events: their bytes, the event of a failure, what keeps the connection open, and the end."""

    media_type: str
    encode: Callable[[Event], bytes]
    error: Callable[[RequestError], Event]
    keep_alive: bytes = b""
    end: bytes = b""


class EventStream(Response):
    """Sends `events` in the form of an API: for OpenAI one `data:` line of JSON each, then `data: [DONE]`.

    The headers are sent at once. A failure becomes an event of its own, the last one. If there is no event for
    `keep_alive` seconds, something empty is sent, so that proxies keep the connection open. When the client leaves,
    `events` is closed at once.
    """

    def __init__(
        self,
        events: Events,
        keep_alive: float = 15.0,
        headers: dict[str, str] | None = None,
        stream_format: StreamFormat | None = None,
    ) -> None:
        self._format = stream_format or OPENAI
        self.media_type = self._format.media_type
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **(headers or {})})
        del self.headers["content-length"]
        self._events = events
        self._keep_alive = keep_alive
        self._last_sent = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        self._last_sent = time.monotonic()
        with cancelled_on_disconnect(receive):
            keep_open = asyncio.create_task(self._keep_open(send)) if self._format.keep_alive else None
            try:
                await self._stream(send)
            finally:
                if keep_open is not None:
                    keep_open.cancel()  # also a comment that waits for a slow client: nothing may come after the end
            await send({"type": "http.response.body", "body": self._format.end, "more_body": False})

    async def _stream(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            try:
                async for event in events:
                    await self._send(send, self._format.encode(event))
            except Exception as error:
                await self._send(send, self._format.encode(self._format.error(request_error(error))))

    async def _keep_open(self, send: Send) -> None:
        while True:
            idle = time.monotonic() - self._last_sent
            await asyncio.sleep(self._keep_alive - idle)
            if time.monotonic() - self._last_sent >= self._keep_alive:
                await self._send(send, self._format.keep_alive)

    async def _send(self, send: Send, chunk: bytes) -> None:
        """Each chunk is a whole event or comment, so the two tasks that send need no lock."""
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
        self._last_sent = time.monotonic()


def data_line(event: Event) -> bytes:
    """One line of JSON. FastAPI's general function takes five times as long, for every token."""
    return b"data: %b\n\n" % _without_line_separators(to_json(event))


def named_event(event: Event) -> bytes:
    """The same after a line with the event's `type`."""
    return b"event: %b\n%b" % (event["type"].encode(), data_line(event))


def json_line(event: Event) -> bytes:
    """A line of NDJSON."""
    return _without_line_separators(to_json(event)) + b"\n"


def _without_line_separators(json: bytes) -> bytes:
    """Escape the characters that JSON allows in strings but some clients' parsers take for the end of a line."""
    if json.isascii():
        return json
    for separator, escape in _LINE_SEPARATORS:
        json = json.replace(separator, escape)
    return json


def request_error(error: Exception) -> RequestError:
    """The error that a client gets for a failure in a stream. Details that are not meant for clients are logged."""
    if isinstance(error, RequestError):
        return error
    logger.error("a stream failed", exc_info=error)
    return EngineFailedError("Something went wrong inside the server; it is in the server's log.")


OPENAI = StreamFormat(
    "text/event-stream",
    data_line,
    lambda error: error.body(),
    keep_alive=format_sse_event(comment="keep-alive"),
    end=format_sse_event(data_str="[DONE]"),
)
