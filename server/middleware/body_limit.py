"""The largest request body that is read."""

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import BodyTooLargeError


class BodyLimit:
    """Answers 413 to a longer body: at once when Content-Length tells, else when the bytes have come.

    FastAPI's own `max_body_size` answers in plain text; this one in the error shape of all other answers.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > self._limit:
            error = BodyTooLargeError(self._limit)
            return await JSONResponse(error.body(), error.status)(scope, receive, send)
        received = 0

        async def limited_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                # FastAPI lets only its own exception through while it reads a body; the handler gives it our shape.
                raise HTTPException(413)
            return message

        return await self._app(scope, limited_receive, send)
