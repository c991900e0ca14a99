"""HTTP/1.1 on one connection: uvicorn's h11 protocol with limits on the size of headers and on waiting for a client.

h11 rather than httptools, which drops the body of a POST that offers an upgrade to HTTP/2 (as Java's HTTP client does),
sends chunks to HTTP/1.0 clients, and reads headers without a limit.
"""

import asyncio
import fcntl
import json
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from server.errors import HeadersTooLargeError, InvalidRequestError, RequestError
from server.metrics import Metrics
from server.startup.connection_limit import ConnectionLimit, HealthOnly, TooManyConnectionsError

MAX_HEAD_BYTES = 64 * 2**10  # request line and headers; read before a key can be checked
HEAD_SECONDS = 30.0  # from the connection, or the first byte of the next request, to the end of its headers
BODY_SECONDS = 60.0  # between two pieces of a body
WRITE_SECONDS = 60.0  # without the client reading any of its response


class ServerConnection(h11.Connection):
    """h11's connection with a shortcut for body data: it is framed without running h11's state machine.

    Data changes no state between the head and the end of a response, and the head has chosen the framing. A stream
    sends data for each token, so what h11 does for every event adds up.
    """

    def __init__(self) -> None:
        super().__init__(h11.SERVER, MAX_HEAD_BYTES)

    def send(self, event: h11.Event) -> bytes | None:  # type: ignore[override]
        """Raises LocalProtocolError as h11 does."""
        if type(event) is not h11.Data or self.our_state is not h11.SEND_BODY or self._writer is None:
            return super().send(event)
        pieces: list[bytes] = []
        try:
            self._writer(event, pieces.append)
        except h11.LocalProtocolError:  # more than the length in the head
            self.send_failed()
            raise
        return b"".join(pieces)


class BoundedH11Protocol(H11Protocol):
    """Closes connections whose client sends too much, or too slowly, or does not read, and those beyond the limit."""

    def __init__(self, *args: Any, limit: ConnectionLimit, metrics: Callable[[], Metrics], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = ServerConnection()
        self._limit, self._metrics = limit, metrics
        self._read_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._set_read_timer(HEAD_SECONDS)
        if not self._limit.admits(len(self.connections)):
            self.app = HealthOnly(self.app, self._metrics)
            self._limit.add_spare(self, self._refuse)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        state = self.conn.their_state
        if state is h11.SEND_BODY:
            self._set_read_timer(BODY_SECONDS)
        elif state is not h11.IDLE:  # the request is complete
            self._set_read_timer(None)
        elif self._read_timer is None:  # the first bytes of another request
            self._set_read_timer(HEAD_SECONDS)

    def on_response_complete(self) -> None:
        """uvicorn reads on here if the client has sent the head of its next request already."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._set_read_timer(BODY_SECONDS)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        self._cancel_write_timer()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_read_timer(None)
        self._cancel_write_timer()
        self._limit.remove(self)
        super().connection_lost(exc)

    def _watch_reader(self) -> None:
        """Abort the connection as soon as its client has read nothing for WRITE_SECONDS."""
        self._write_timer = self.loop.call_later(WRITE_SECONDS, self._abort_unless_read, self._unread())

    def _abort_unless_read(self, unread: int) -> None:
        if self._unread() < unread:
            self._watch_reader()
        else:
            self.transport.abort()

    def _unread(self) -> int:
        """How many bytes have not reached the client, those in the kernel included: it takes many at a time."""
        queued = b""
        with suppress(OSError):  # not every system tells
            queued = fcntl.ioctl(self.transport.get_extra_info("socket"), termios.TIOCOUTQ, bytes(4))
        return self.transport.get_write_buffer_size() + int.from_bytes(queued, sys.byteorder)

    def _refuse(self) -> None:
        """Close the connection, with a reason if it has no request yet."""
        if self.conn.our_state is h11.IDLE:
            self._send(TooManyConnectionsError())
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for what h11 refuses. Answers in the error shape of all other responses, then closes."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._send(self._error())
        self.transport.close()

    def _error(self) -> RequestError:
        unread, _ = self.conn.trailing_data
        if len(unread) > MAX_HEAD_BYTES:
            return HeadersTooLargeError(MAX_HEAD_BYTES)
        return InvalidRequestError("This is not a valid HTTP/1.1 request.", code="invalid_http")

    def _send(self, error: RequestError) -> None:
        body = json.dumps(error.body()).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Connection", "close")]
        headers += error.headers().items()
        reason = HTTPStatus(error.status).phrase
        for event in (
            h11.Response(status_code=error.status, headers=headers, reason=reason),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")

    def _should_upgrade(self) -> bool:
        """Never: a server may ignore the offer (RFC 9110, section 7.8). uvicorn would log a warning for each."""
        return False

    def _set_read_timer(self, seconds: float | None) -> None:
        """Close the connection after so many seconds; None: no longer."""
        if self._read_timer is not None:
            self._read_timer.cancel()
        self._read_timer = None if seconds is None else self.loop.call_later(seconds, self.transport.close)

    def _cancel_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
