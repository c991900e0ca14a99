"""Which request bodies are read, and when: uncompressed ones up to a size, large ones one after another."""

import asyncio
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import BodyTooLargeError, CompressedBodyError, RequestError

LARGE = 64 * 1024  # bytes; parsing 2 MiB of JSON takes up to 100 ms
PAUSE = 0.005  # seconds


class BodyLimit:
    """`of_paths` has the limits of paths that take larger bodies than others, such as uploads.

    Answers 413 to a longer body (at once if Content-Length is too large, else when too many bytes have arrived), and
    415 to a compressed one, whose size would not be bounded.

    The application parses a body as soon as it has the whole of it, which blocks the event loop. Large bodies that
    arrive together are handed over one by one, with a pause before each, so that streams and health checks wait for
    one of them and not for all.

    FastAPI's own `max_body_size` answers in plain text; this middleware uses the error shape of all other answers.
    """

    def __init__(self, app: ASGIApp, limit: int, of_paths: Mapping[str, int] | None = None) -> None:
        self._app = app
        self._limit = limit
        self._of_paths = of_paths or {}
        self._large_bodies = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        limit = self._of_paths.get(scope["path"], self._limit)
        error = _refusal(Headers(scope=scope), limit)
        if error is not None:
            return await JSONResponse(error.body(scope["path"]), error.status)(scope, receive, send)
        received = 0

        async def limited_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                # While FastAPI reads a body, only an HTTPException gets through; its handler answers in our shape.
                raise HTTPException(413)
            is_last = message["type"] == "http.request" and not message.get("more_body")
            if received > LARGE and is_last:
                async with self._large_bodies:
                    await asyncio.sleep(PAUSE)
            return message

        return await self._app(scope, limited_receive, send)


def _refusal(headers: Headers, limit: int) -> RequestError | None:
    """What is wrong with the body according to the headers."""
    encoding = headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        return CompressedBodyError(encoding[:32])
    length = headers.get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > limit:
        return BodyTooLargeError(limit)
    return None
