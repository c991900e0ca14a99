"""Where log lines go, and what is done for each HTTP request: an id, a count, a log line if wanted."""

import logging
import time
import uuid

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

LOG_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def configure_logging(level: str) -> None:
    """Log to stderr, uvicorn's lines in the same form. Called once, by the command line."""
    logging.basicConfig(level=level.upper(), format=LOG_FORMAT, datefmt="%Y-%m-%dT%H:%M:%S%z", force=True)


class RequestLog:
    """Gives each request an id, tells it in X-Request-Id, and logs method, path, status and time if asked to.

    POSTs are counted by the status of their answer: the requests that ask for work, unlike probes and scrapes.

    The id is always made here: the engine tells requests apart by it, so a client must not choose it.
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
            status = status or 500  # the outermost layer answers for what nobody caught
            raise
        finally:
            if scope["method"] == "POST" and status:  # 0: cut off before there was an answer
                scope["app"].state.metrics.answered(status)
            if self._log_requests:
                milliseconds = (time.monotonic() - started) * 1000
                logger.info("%s %s %d %.1f ms %s", scope["method"], scope["path"], status, milliseconds, request_id)
        return None
