"""What is done for each HTTP request: an id, a count, and a log line if wanted."""

import logging
import math
import time
import uuid

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_PATH = 256  # characters of a logged path

logger = logging.getLogger(__name__)


class RequestLog:
    """Gives each request an id, returns it in X-Request-Id, and logs method, path, status and time if asked to.

    Only POST requests are counted, by the status of their response: they ask for work, unlike probes and scrapes.

    The id is always generated here and never taken from the client, because the engine identifies requests by it.
    Requests that take longer than `slow` seconds are logged as warnings in any case.
    """

    def __init__(self, app: ASGIApp, log_requests: bool, slow: float | None = None) -> None:
        self._app = app
        self._log_requests = log_requests
        self._slow = math.inf if slow is None else slow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        request_id = scope["request_id"] = uuid.uuid4().hex
        started, status = time.monotonic(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            status = status or 500  # the outermost layer answers 500 to an exception that nobody caught
            raise
        finally:
            if scope["method"] == "POST" and status:  # 0: cancelled before there was a response
                scope["app"].state.metrics.answered(status)
            self._log(scope, status, time.monotonic() - started)
        return None

    def _log(self, scope: Scope, status: int, seconds: float) -> None:
        if not self._log_requests and seconds <= self._slow:
            return
        fields = {
            "method": scope["method"],
            "path": _printable(scope),
            "status": status,
            "milliseconds": round(1000 * seconds, 1),
            "request_id": scope["request_id"],
        }
        level, prefix = (logging.WARNING, "slow: ") if seconds > self._slow else (logging.INFO, "")
        line = "%s%s %s %d %.1f ms %s"
        logger.log(level, line, prefix, *fields.values(), extra={"fields": fields})


def _printable(scope: Scope) -> str:
    """The path as it was sent, percent-encoded: decoded, it may hold line ends and escape sequences of terminals."""
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    return path[:MAX_PATH].decode("ascii", "backslashreplace")
