"""The sockets a server listens on. They are bound before a model is loaded, so that a port in use is told at once."""

import errno
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from server.settings import Settings

ANY_IPV6 = "::"  # all addresses: IPv4 clients come in through the same socket

Listeners = Sequence[socket.socket]


@contextmanager
def bound(settings: Settings) -> Iterator[Listeners]:
    """Sockets for `uds`, or else for `host` and `port`: bound, those of ports not yet listening. Closed and removed at
    the end.

    The file of a Unix socket stays if it is that of the next server, which may start when this one listens no more.
    Raises ValueError, with what to do, for an address that is in use or does not exist.
    """
    path = settings.uds
    listeners = bind_tcp(settings.host, settings.port) if path is None else [bind_unix(path)]
    own_file = path and _identity(path)
    try:
        yield listeners
    finally:
        for listener in listeners:
            listener.close()
        if path is not None and _identity(path) == own_file:
            path.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[int, int] | None:
    """Of the file that is there; the time too, because the number of a deleted file is used again."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def bind_tcp(host: str, port: int) -> Listeners:
    """A socket for every address of the host; with port 0 they share a free one."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return _bind_all({(family, address[0]) for family, _, _, _, address in addresses}, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ValueError(f"port {port} is in use: choose another with --port") from None
        raise ValueError(f"cannot listen on {host}, port {port}: {error.strerror}") from None


def _bind_all(addresses: set[tuple[socket.AddressFamily, str | int]], port: int) -> Listeners:
    listeners: list[socket.socket] = []
    missing: OSError | None = None
    for family, address in sorted(addresses):
        try:
            listeners.append(_bind(family, str(address), port or (_port(listeners[0]) if listeners else 0)))
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
            missing = error  # localhost often has an IPv6 address where the machine has no IPv6
    if missing is not None and not listeners:
        raise missing
    return listeners


def _bind(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address != ANY_IPV6)
        listener.bind((address, port))
    except OSError:
        listener.close()
        raise
    return listener


def _port(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


def bind_unix(path: Path) -> socket.socket:
    """A Unix domain socket. A socket file that a dead server left behind is replaced.

    It listens at once: a file that nobody listens on would be taken for one that was left behind, by another server
    that starts while this one loads its model.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_stale(path):
            path.unlink()
        listener.bind(str(path))
        listener.listen()
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ValueError(f"{path} is in use: choose another path with --uds") from None
        raise ValueError(f"cannot listen on {path}: {error.strerror or error}") from None
    return listener


def _is_stale(path: Path) -> bool:
    """Whether it is a socket that nobody listens on."""
    if not (path.exists() and stat.S_ISSOCK(path.stat().st_mode)):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)  # of a server that is slow to accept, the queue may be full
        return client.connect_ex(str(path)) == errno.ECONNREFUSED


def url_of(listener: socket.socket) -> str:
    """Where clients reach it, as for `routelm chat --url`; the path of a Unix socket."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{name}"
    host = f"[{name[0]}]" if listener.family == socket.AF_INET6 else name[0]
    return f"http://{host}:{name[1]}"
