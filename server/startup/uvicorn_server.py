"""uvicorn around the application: in the foreground until a signal comes, or in the background of a command."""

import asyncio
import errno
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from server.batches.directory import BatchDirectory
from server.middleware.api_keys import ApiKeys
from server.middleware.drain import Drain
from server.settings import Settings
from server.startup.app import Backend, create_app
from server.startup.connection_limit import ConnectionLimit
from server.startup.http_protocol import BoundedH11Protocol
from server.startup.listeners import Listeners, bind_tcp, url_of

KEEP_ALIVE_SECONDS = 75  # longer than common proxies keep idle connections, so that they close them and not we
LAST_SECONDS = 5  # after the drain, for clients that read slowly
ACCEPTED_AT_ONCE = 16  # connections: asyncio counts none before it has accepted all that it may at once
QUEUED_CONNECTIONS = 2048  # in the kernel, before they are accepted

# The engine's thread and the event loop take turns several times a step. Python's default of 5 ms is as long as a step.
SWITCH_SECONDS = 0.0002

logger = logging.getLogger(__name__)


class DrainingServer(uvicorn.Server):
    """A uvicorn server that keeps answering while it drains: probes get 503, new requests an explanation.

    It stops listening when the last response is complete or the grace period is over. A second signal ends the requests
    that still run, with an error for each; a third one ends the process at once.
    """

    def __init__(self, config: uvicorn.Config, drain: Drain, api_keys: ApiKeys) -> None:
        super().__init__(config)
        self._drain = drain
        self._api_keys = api_keys
        self._num_signals = 0
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application and listen. uvicorn logs no address for sockets that it was given.

        Two servers can bind a port while neither listens. The one that is ready first has it, and the other ends.
        """
        listeners = sockets or []
        addresses = ", ".join(map(url_of, listeners))
        try:
            await super().startup(sockets)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            logger.error("another server that started meanwhile listens on %s", addresses)
            await self.lifespan.shutdown()
            sys.exit(STARTUP_FAILURE)
        for listener in listeners:
            listener.listen(QUEUED_CONNECTIONS)  # asyncio makes the queue as short as what it accepts at once
        logger.info("listening on %s", addresses)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The signal handler. It only sets flags; `on_tick` acts on them."""
        self._num_signals += 1
        if self._num_signals > 2:
            self.should_exit = self.force_exit = True
        self._drain.begun = True

    def _request_reload(self, sig: int, frame: FrameType | None) -> None:
        """The handler of SIGHUP."""
        self._api_keys.reload_requested = True

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second on the event loop. Returning True ends its main loop."""
        if self._drain.begun and self._draining is None:
            logger.info("draining: running requests finish, new ones are refused")
            self._draining = asyncio.create_task(self._drain.finish())
        if self._num_signals == 2:
            self._drain.cut_short()
        drained = self._draining is not None and self._draining.done()
        return await super().on_tick(counter) or drained

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Unlike uvicorn's, this does not raise the signal again at the end: a drained server exits with 0."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread receives signals; whoever runs the server in another thread stops it
            return
        handlers = {signal.SIGINT: self.handle_exit, signal.SIGTERM: self.handle_exit}
        if self._api_keys.path is not None:
            handlers[signal.SIGHUP] = self._request_reload
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run(
    settings: Settings,
    open_backend: Callable[[], Backend],
    listeners: Listeners,
    batch_directory: BatchDirectory | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Returns when everything has ended."""
    sys.setswitchinterval(SWITCH_SECONDS)
    limit = ConnectionLimit(settings.max_connections)
    limit.warn_if_lowered()
    _server(settings, open_backend, batch_directory, limit).run(list(listeners))


@contextmanager
def in_background(
    settings: Settings,
    open_backend: Callable[[], Backend],
    listener: socket.socket | None = None,
    batch_directory: BatchDirectory | None = None,
) -> Iterator[str]:
    """Serve on a socket, by default a free port of this machine, while the block runs; yields the base URL."""
    server = _server(settings, open_backend, batch_directory, ConnectionLimit(settings.max_connections))
    with listener or bind_tcp("127.0.0.1", 0)[0] as listener:
        url = url_of(listener)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="http")
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            if not server.started:
                raise RuntimeError("the server did not start; its log says why")
            yield url
        finally:
            server.should_exit = True
            thread.join()


def _server(
    settings: Settings,
    open_backend: Callable[[], Backend],
    batch_directory: BatchDirectory | None,
    limit: ConnectionLimit,
) -> DrainingServer:
    app = create_app(settings, open_backend, batch_directory)
    config = uvicorn.Config(
        app,
        http=partial(BoundedH11Protocol, limit=limit, metrics=lambda: app.state.metrics),  # type: ignore[arg-type]
        backlog=ACCEPTED_AT_ONCE,
        loop="asyncio",  # as fast as uvloop for streams of tokens, and nothing to install
        ws="none",
        log_config=None,  # uvicorn logs through the handler of configure_logging
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=LAST_SECONDS,
    )
    return DrainingServer(config, app.state.drain, app.state.api_keys)
