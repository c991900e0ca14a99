"""A bound on open connections. At the limit of open files a server cannot accept any, and its probes fail silently."""

import logging
import math
import resource
import time
from collections.abc import Callable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import UnavailableError
from server.middleware.auth import HEALTH_PATHS

OTHER_FILES = 128  # that a server opens beside its connections: listeners, libraries, files of batches
PROBE_CONNECTIONS = 32  # beyond the bound, for /health only
FEWEST = 16  # connections, however few files the process may open
LOG_SECONDS = 60.0
RETRY_SECONDS = 1.0

logger = logging.getLogger(__name__)


class TooManyConnectionsError(UnavailableError):
    code = "too_many_connections"

    def __init__(self) -> None:
        super().__init__(
            "The server has as many open connections as it may have: close idle ones, or come back later.",
            retry_after=RETRY_SECONDS,
        )


class ConnectionLimit:
    """How many connections may be open, as far as the limit of open files allows it.

    The next PROBE_CONNECTIONS are accepted too, because a full server is still alive; they get 503 for other paths.
    """

    def __init__(self, max_connections: int) -> None:
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        room = math.inf if files == resource.RLIM_INFINITY else files - OTHER_FILES - PROBE_CONNECTIONS
        self.most = int(min(max_connections, max(room, FEWEST)))
        self._spare: dict[object, Callable[[], None]] = {}  # what refuses each, oldest first
        self._last_line = -math.inf
        if self.most < max_connections:
            logger.warning(
                "at most %d connections, not %d: the process may open %d files; raise `ulimit -n` (LimitNOFILE)",
                self.most,
                max_connections,
                files,
            )

    def admits(self, count: int) -> bool:
        """Whether a connection may stay as the last of so many, spare ones included. If not, that is logged."""
        if count - len(self._spare) <= self.most:
            return True
        if time.monotonic() - self._last_line > LOG_SECONDS:
            self._last_line = time.monotonic()
            logger.warning("%d connections are open, the most that may be (max_connections): more get 503", self.most)
        return False

    def add_spare(self, connection: object, refuse: Callable[[], None]) -> None:
        """Keep a connection beyond the bound. The oldest one goes if there are too many: a new one may be a probe."""
        self._spare[connection] = refuse
        if len(self._spare) > PROBE_CONNECTIONS:
            self._spare.pop(next(iter(self._spare)))()

    def remove(self, connection: object) -> None:
        """The connection is closed, whether it was a spare one or not."""
        self._spare.pop(connection, None)


class HealthOnly:
    """The application on a connection beyond the bound."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in HEALTH_PATHS:
            return await self._app(scope, receive, send)
        error = TooManyConnectionsError()
        headers = error.headers() | {"Connection": "close"}
        await JSONResponse(error.body(scope["path"]), error.status, headers)(scope, receive, send)
        return None
