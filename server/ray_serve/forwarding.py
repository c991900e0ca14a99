"""An HTTP request that another process answers, and its response as ASGI messages."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.asgi import http_scope
from server.errors import ClientGoneError

logger = logging.getLogger(__name__)

Messages = list[Message]


@dataclass(frozen=True, slots=True)
class ForwardedRequest:
    """A whole request, and the digests of its prefixes by which it is routed."""

    method: str
    path: str
    raw_path: bytes
    query_string: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    prefix_digests: tuple[bytes, ...] = ()

    def scope(self) -> dict[str, Any]:
        """The ASGI scope with which an application is called."""
        return http_scope(self.method, self.path, self.headers, raw_path=self.raw_path, query_string=self.query_string)


async def read_request(scope: Scope, receive: Receive) -> ForwardedRequest:
    """Read a request to its end. Raises ClientGoneError if the client leaves before."""
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        body += message.get("body", b"")
        more = message.get("more_body", False)
    path: str = scope["path"]
    raw_path = scope.get("raw_path") or path.encode()
    headers = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
    return ForwardedRequest(scope["method"], path, raw_path, scope["query_string"], headers, bytes(body))


async def answer(app: ASGIApp, request: ForwardedRequest) -> AsyncGenerator[Messages, None]:
    """Call `app`; yield what it sends, each time all messages that are there. Closing the generator is a disconnect.

    Messages wait here without bound if nobody takes them: the length of an answer bounds them.
    """
    sent: asyncio.Queue[Message | None] = asyncio.Queue()
    disconnected = asyncio.Event()
    call = asyncio.create_task(_call(app, request, disconnected, sent))
    try:
        while (message := await sent.get()) is not None:
            messages = [message]
            while not sent.empty() and (message := sent.get_nowait()) is not None:
                messages.append(message)
            yield messages
            if message is None:
                return
    finally:
        disconnected.set()
        await asyncio.gather(call, return_exceptions=True)


async def _call(
    app: ASGIApp, request: ForwardedRequest, disconnected: asyncio.Event, sent: asyncio.Queue[Message | None]
) -> None:
    """Ends with None in `sent`, also when the application raises: it has answered with 500 by then."""
    read = False

    async def receive() -> Message:
        nonlocal read
        if read:
            await disconnected.wait()
            return {"type": "http.disconnect"}
        read = True
        return {"type": "http.request", "body": request.body, "more_body": False}

    send: Send = sent.put
    try:
        await app(request.scope(), receive, send)
    except Exception:
        logger.exception("%s %s raised an exception", request.method, request.path)  # as uvicorn does
    finally:
        sent.put_nowait(None)
