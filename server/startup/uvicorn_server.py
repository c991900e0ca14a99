"""uvicorn around the application: in the foreground until a signal comes, or in the background of a command."""

import asyncio
import errno
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from server.middleware.drain import DrainingServer
from server.settings import Settings
from server.startup.app import Backend, create_app

KEEP_ALIVE_SECONDS = 75  # longer than the idle time of common proxies, so that they close connections and not we
LAST_SECONDS = 5  # after the drain, for clients that do not read their answers


# The engine's thread and the event loop take turns several times a step; Python's own 5 ms would be a step's length.
SWITCH_SECONDS = 0.0002


def check_address(host: str, port: int) -> None:
    """Listen there for a moment. ValueError, with what to do, if that cannot be: told before a model is loaded."""
    try:
        asyncio.run(_listen(host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ValueError(f"port {port} is in use: choose another with --port") from None
        raise ValueError(f"cannot listen on {host}, port {port}: {error.strerror}") from None


async def _listen(host: str, port: int) -> None:
    """As uvicorn will."""
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port)
    server.close()
    await server.wait_closed()


def run(settings: Settings, open_backend: Callable[[], Backend]) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Returns when everything has ended."""
    sys.setswitchinterval(SWITCH_SECONDS)
    _server(settings, open_backend, settings.host, settings.port).run()


@contextmanager
def in_background(settings: Settings, open_backend: Callable[[], Backend]) -> Iterator[str]:
    """Serve on a free port of this machine while the block runs; yields the base URL."""
    server = _server(settings, open_backend, "127.0.0.1", 0)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="http")
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            if not server.started:
                raise RuntimeError("the server did not start; its log says why")
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def _server(settings: Settings, open_backend: Callable[[], Backend], host: str, port: int) -> DrainingServer:
    app = create_app(settings, open_backend)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,  # uvicorn's lines go where ours go
        access_log=False,
        ws="none",
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=LAST_SECONDS,
    )
    return DrainingServer(config, app.state.drain)
