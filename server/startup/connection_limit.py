"""A bound on open connections. At the limit of open files a server cannot accept any, and its probes fail silently."""

import logging
import math
import resource
import time
from collections.abc import Callable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import UnavailableError
from server.metrics import Metrics
from server.middleware.auth import HEALTH_PATHS

OTHER_FILES = 128  # that a server opens beside its connections: listeners, libraries, files of batches
PROBE_CONNECTIONS = 32  # beyond the bound, for /health only
FEWEST = 16  # connections, however few files the process may open
LOG_SECONDS = 60.0
RETRY_SECONDS = 1.0

logger = logging.getLogger(__name__)


class TooManyConnectionsError(UnavailableError):
    code: str = "too_many_connections"

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
        self._files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        is_unlimited = self._files == resource.RLIM_INFINITY
        room = math.inf if is_unlimited else self._files - OTHER_FILES - PROBE_CONNECTIONS
        self._asked, self.most = max_connections, int(min(max_connections, max(room, FEWEST)))
        self._spare: dict[object, Callable[[], None]] = {}  # what refuses each, oldest first
        self._last_line = -math.inf

    def warn_if_lowered(self) -> None:
        """Log that the limit of open files allows fewer connections than were asked for, if it does."""
        if self.most < self._asked:
            logger.warning(
                "at most %d connections, not %d: the process may open %d files; raise `ulimit -n` (LimitNOFILE)",
                self.most,
                self._asked,
                self._files,
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
    """The application on a connection beyond the bound. `metrics` are those of the application, once it has started."""

    def __init__(self, app: ASGIApp, metrics: Callable[[], Metrics]) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in HEALTH_PATHS:
            return await self._app(scope, receive, send)
        error = TooManyConnectionsError()
        self._count(scope["method"], error)
        headers = error.headers() | {"Connection": "close"}
        await JSONResponse(error.body(scope["path"]), error.status, headers)(scope, receive, send)
        return None

    def _count(self, method: str, error: TooManyConnectionsError) -> None:
        """As the application counts what it refuses itself."""
        metrics = self._metrics()
        metrics.rejected(error.code)
        if method == "POST":
            metrics.answered(error.status)
