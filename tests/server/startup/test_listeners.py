"""The sockets a server listens on."""

import os
import socket
from pathlib import Path

import httpx
import pytest

from server.settings import Settings
from server.startup import listeners
from server.startup.listeners import bind_tcp, bind_unix, bound, url_of
from tests.server.applications import listening_on, make_server


def connects(family: socket.AddressFamily, address: object) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as client:
        return client.connect_ex(address) == 0  # type: ignore[arg-type]


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


def test_a_port_is_held_but_nobody_is_let_in_before_listening() -> None:
    [listener] = bind_tcp("127.0.0.1", 0)
    with listener:
        assert not connects(socket.AF_INET, listener.getsockname())
        listener.listen()
        assert connects(socket.AF_INET, listener.getsockname())
        with pytest.raises(ValueError, match=r"port \d+ is in use: choose another with --port"):
            bind_tcp("127.0.0.1", listener.getsockname()[1])


@needs_ipv6
@pytest.mark.parametrize(("host", "also_ipv4"), [("::", True), ("::1", False)])
def test_all_addresses_include_those_of_ipv4(host: str, also_ipv4: bool) -> None:
    [listener] = bind_tcp(host, 0)
    with listener:
        listener.listen()
        port = listener.getsockname()[1]
        assert connects(socket.AF_INET6, ("::1", port))
        assert connects(socket.AF_INET, ("127.0.0.1", port)) == also_ipv4
        assert url_of(listener) == f"http://[{host}]:{port}"


def test_every_address_of_a_name_gets_the_same_port(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in ("127.0.0.1", "127.0.0.2")]
    monkeypatch.setattr(listeners.socket, "getaddrinfo", lambda *_, **__: found)
    first, second = bind_tcp("two.example", 0)
    with first, second:
        assert first.getsockname()[1] == second.getsockname()[1]
        assert first.getsockname()[0] != second.getsockname()[0]


def test_an_address_that_is_missing_here_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where /etc/hosts names ::1 but the machine has no IPv6."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in ("127.0.0.1", "192.0.2.1")]
    monkeypatch.setattr(listeners.socket, "getaddrinfo", lambda *_, **__: found)
    [listener] = bind_tcp("localhost", 0)
    listener.close()
    monkeypatch.setattr(listeners.socket, "getaddrinfo", lambda *_, **__: found[1:])
    with pytest.raises(ValueError, match=r"cannot listen on localhost, port 0: "):
        bind_tcp("localhost", 0)


def test_a_unix_socket_is_served_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "routelm.sock"
    with bound(Settings(uds=path)) as [listener]:
        listener.listen()
        assert connects(socket.AF_UNIX, str(path))
        assert url_of(listener) == f"unix:{path}"
        with pytest.raises(ValueError, match=r"routelm\.sock is in use: choose another path with --uds"):
            bind_unix(path)
        listener.close()
    assert not path.exists()


def test_the_socket_of_the_next_server_stays(tmp_path: Path) -> None:
    path = tmp_path / "routelm.sock"
    with bound(Settings(uds=path)) as [listener]:
        listener.close()  # as uvicorn does, seconds before the process ends
        following = bind_unix(path)
        following.listen()
    assert connects(socket.AF_UNIX, str(path))
    following.close()


def test_the_socket_of_a_dead_server_is_replaced_but_no_file(tmp_path: Path) -> None:
    path = tmp_path / "routelm.sock"
    bind_unix(path).close()
    assert path.exists()
    bind_unix(path).close()
    path.unlink()
    path.write_text("precious")
    with pytest.raises(ValueError, match="in use"):
        bind_unix(path)
    assert path.read_text() == "precious"
    with pytest.raises(ValueError, match=r"cannot listen on .*/nowhere/socket: No such file"):
        bind_unix(tmp_path / "nowhere" / "socket")


def test_the_socket_of_a_server_that_still_loads_is_in_use(tmp_path: Path) -> None:
    path = tmp_path / "routelm.sock"
    with bind_unix(path), pytest.raises(ValueError, match="in use"):
        bind_unix(path)
    with bind_unix(path) as listener:
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.connect(str(path))
            with pytest.raises(ValueError, match="in use"):  # and does not wait, although the queue is full
                bind_unix(path)


def test_an_application_answers_on_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "routelm.sock"
    with listening_on(make_server(), bind_unix(path)) as url:
        assert url == f"unix:{path}"
        with httpx.Client(transport=httpx.HTTPTransport(uds=os.fspath(path)), base_url="http://here") as client:
            assert client.get("/health/live").json() == {"status": "alive"}
