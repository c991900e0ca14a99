"""Where the server listens: what is wrong with it is told in one line, before a model is loaded."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
from click.testing import Result
from typer.testing import CliRunner

from server.cli import app
from server.startup import uvicorn_server
from server.startup.listeners import bind_tcp, url_of
from tests.server.applications import make_server


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that were loaded."""
    seen: list[str] = []
    monkeypatch.setattr("server.commands.serve.configure_logging", lambda *_, **__: None)  # it is for whole processes
    monkeypatch.setattr("server.commands.serve.load_backend", lambda settings: seen.append(settings.model))
    monkeypatch.setattr("server.startup.uvicorn_server.run", lambda *_: None)
    return seen


def serve(*options: str) -> Result:
    return CliRunner().invoke(app, ["serve", *options])


def test_a_port_in_use_is_told_before_loading(taken: int, loaded: list[str]) -> None:
    result = serve("--port", str(taken))
    assert (result.exit_code, result.stderr) == (2, f"port {taken} is in use: choose another with --port\n")
    assert loaded == []


def test_a_port_that_another_server_took_while_loading_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(uvicorn_server.sys, "setswitchinterval", lambda seconds: None)  # it is for whole processes
    server = make_server()
    [first] = bind_tcp("127.0.0.1", 0)
    with first:
        [second] = bind_tcp("127.0.0.1", first.getsockname()[1])
        first.listen()
        with second, pytest.raises(SystemExit) as ended:
            uvicorn_server.run(server.settings, server.open_backend, [second])
        assert ended.value.code
        assert caplog.messages[-1] == f"another server that started meanwhile listens on {url_of(first)}"
    assert server.engine.closed_with


BURST = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))
from server.startup import uvicorn_server
from server.startup.listeners import bind_tcp
from tests.server.applications import make_server
server, listeners = make_server(), bind_tcp("127.0.0.1", 0)
print(listeners[0].getsockname()[1], flush=True)
uvicorn_server.run(server.settings, server.open_backend, listeners)
"""


def test_a_burst_of_connections_does_not_use_up_the_open_files() -> None:
    """More come at once than the process may have files; most of them are refused, and probes are answered."""
    process = subprocess.Popen([sys.executable, "-c", BURST], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        address = "127.0.0.1", int(process.stdout.readline())
        url = f"http://127.0.0.1:{address[1]}/health/live"
        until_ready = httpx.Client(transport=httpx.HTTPTransport(retries=20))
        with until_ready, ExitStack() as burst:
            assert until_ready.get(url).status_code == 200
            for _ in range(600):
                opened = burst.enter_context(socket.socket())
                opened.setblocking(False)
                opened.connect_ex(address)
            assert httpx.get(url, timeout=20).status_code == 200
    finally:
        process.terminate()
        _, log = process.communicate(timeout=30)
    assert "connections are open" in log
    assert "out of system resource" not in log


def test_an_address_of_another_machine_is_told(loaded: list[str]) -> None:
    result = serve("--host", "192.0.2.1", "--port", "0")
    assert result.exit_code == 2
    assert result.stderr.startswith("cannot listen on 192.0.2.1, port 0: ")
    assert result.stderr.count("\n") == 1
    assert loaded == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_free_port_stays_free(host: str, loaded: list[str]) -> None:
    assert serve("--host", host, "--port", "0").exit_code == 0
    assert loaded == ["bundled"]
