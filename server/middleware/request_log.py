"""What is done for each HTTP request: an id, a count, and a log line if wanted."""

import logging
import time
import uuid

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)


class RequestLog:
    """Gives each request an id, returns it in X-Request-Id, and logs method, path, status and time if asked to.

    Only POST requests are counted, by the status of their response: they ask for work, unlike probes and scrapes.

    The id is always generated here and never taken from the client, because the engine identifies requests by it.
    """

    def __init__(self, app: ASGIApp, log_requests: bool) -> None:
        self._app = app
        self._log_requests = log_requests

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
            if self._log_requests:
                milliseconds = (time.monotonic() - started) * 1000
                logger.info("%s %s %d %.1f ms %s", scope["method"], scope["path"], status, milliseconds, request_id)
        return None
