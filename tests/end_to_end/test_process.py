"""A server as a process: its limit of open files, and SIGHUP."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from server.middleware.api_keys import hash_key
from tests.deploy.servers import free_port, running, wait_until

pytestmark = pytest.mark.slow

OPEN_FILES = 256
PATIENCE = 30.0  # seconds, on a machine that others use


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[bytes]
    port: int
    directory: Path

    def status(self, path: str, key: str = "none") -> int:
        headers = {"Authorization": f"Bearer {key}"}
        url = f"http://127.0.0.1:{self.port}{path}"
        return httpx.get(url, headers=headers, timeout=PATIENCE, trust_env=False).status_code


def write_keys(directory: Path, key: str) -> None:
    path = directory / "keys.json"
    path.write_text(json.dumps({"keys": [{"name": "only", "sha256": hash_key(key.encode())}]}))
    os.utime(path, (0, 0))  # so that nothing but SIGHUP tells that it has changed


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory, port = tmp_path_factory.mktemp("process"), free_port()
    write_keys(directory, "first")
    serve = f"exec {sys.executable} -m server serve --port {port} --keys-file keys.json"
    command = ["bash", "-c", f"ulimit -n {OPEN_FILES}; {serve}"]
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    with running(command, directory / "log", f"http://127.0.0.1:{port}/health/ready", environment) as process:
        yield Server(process, port, directory)


def test_a_flood_of_connections_does_not_exhaust_the_open_files(server: Server) -> None:
    with ExitStack() as stack:
        for _ in range(2 * OPEN_FILES):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        assert server.status("/health/live") == 200
        assert server.status("/v1/models", "first") == 503
        assert len(list(Path(f"/proc/{server.process.pid}/fd").iterdir())) < OPEN_FILES
    wait_until(lambda: server.status("/v1/models", "first") == 200, PATIENCE, "room for connections")
    log = (server.directory / "log").read_text()
    assert f"the process may open {OPEN_FILES} files" in log
    assert "connections are open, the most that may be" in log


def test_sighup_reloads_the_keys(server: Server) -> None:
    assert server.status("/v1/models", "other") == 401
    write_keys(server.directory, "other")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: server.status("/v1/models", "other") == 200, PATIENCE, "the new key")
    assert server.status("/v1/models", "first") == 401
    assert server.process.poll() is None
