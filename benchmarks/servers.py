"""A server as a process of its own: started by a shell command, waited for, weighed, and stopped with its children.

Commands have `{port}` where the port goes. Linux only: processes and their memory are read from /proc.
"""

import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import httpx

OURS = f"{shlex.quote(sys.executable)} -m server serve --log-level warning --port {{port}}"
PATIENCE = 900.0  # seconds until a server must answer
GRACE = 60.0  # seconds between asking its processes to end and ending them


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers: where, under which name, how long it took, and the session its processes share."""

    url: str
    model: str
    session: int
    started: float  # time.perf_counter()
    ready_seconds: float

    def memory(self, field: str = "VmRSS") -> int:
        """VmRSS or VmHWM in bytes, summed over its processes: pages that several map are counted for each."""
        return sum(_memory(process, field) for process in _processes(self.session))

    def main_thread_seconds(self) -> float:
        """Processor time of its processes' first threads: of a server of ours, the event loop's."""
        return sum(_main_thread_seconds(process) for process in _processes(self.session))

    def waits_for_processor(self) -> dict[int, float]:
        """By thread: the seconds in which it could have run and had no processor, because others had them."""
        return {
            thread: seconds for process in _processes(self.session) for thread, seconds in _waits_for_processor(process)
        }


@contextmanager
def started(command: str, key: str | None = None) -> Iterator[Server]:
    """Runs `command` until the block ends. What it prints is shown only if it ends before it is ready.

    `key` is an API key with which the name of its model is asked for.
    """
    port = _free_port()
    url, headers = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {key}"} if key is not None else {}
    with TemporaryFile() as output, httpx.Client(base_url=url, headers=headers, timeout=30) as client:
        start = time.perf_counter()
        process = subprocess.Popen(
            command.replace("{port}", str(port)),
            shell=True,
            start_new_session=True,
            stdout=output,
            stderr=output,
            env=_environment(),
        )
        try:
            _wait_until_ready(client, process, output)
            seconds = time.perf_counter() - start
            yield Server(url, client.get("/v1/models").json()["data"][0]["id"], process.pid, start, seconds)
        finally:
            _stop(process)


@contextmanager
def weighed(server: Server, seconds: float = 1.0) -> Iterator[list[tuple[float, int]]]:
    """Samples (time.perf_counter(), VmRSS) taken every `seconds` while the block runs."""
    samples: list[tuple[float, int]] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(seconds):
            samples.append((time.perf_counter(), server.memory()))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield samples
    finally:
        done.set()
        watcher.join()
        samples.append((time.perf_counter(), server.memory()))


def _environment() -> dict[str, str]:
    """Ours, but with bytecode, which an installed package has, and a checkout from the second start on."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_ready(client: httpx.Client, process: "subprocess.Popen[bytes]", output: IO[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(httpx.TransportError):
            if _answers(client):
                return
        time.sleep(0.02)
    output.seek(0)
    print(output.read().decode(errors="replace")[-4000:], file=sys.stderr)
    ended = f"it ended with code {process.returncode}" if process.returncode is not None else "it took too long"
    raise RuntimeError(f"the server was not ready: {ended}")


def _answers(client: httpx.Client) -> bool:
    """/health if there is one: some servers list their models while they are still loading them."""
    health = client.get("/health").status_code
    return health == 200 or (health == 404 and client.get("/v1/models").status_code == 200)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Returns when every process of the session is gone: the next server needs the memory and the cores."""
    deadline, sent = time.monotonic() + GRACE, signal.SIGTERM
    _send(process.pid, sent)
    while _processes(process.pid):
        if sent is signal.SIGTERM and time.monotonic() > deadline:
            sent = signal.SIGKILL
            _send(process.pid, sent)
        time.sleep(0.05)
        process.poll()
    process.wait()


def _send(session: int, number: signal.Signals) -> None:
    for process in _processes(session):
        with suppress(ProcessLookupError):
            os.kill(process, number)


def _processes(session: int) -> list[int]:
    """The living processes of a session; zombies have ended, whoever has yet to collect them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, owner = path.read_text().rsplit(")", 1)[1].split()[:4]
            if int(owner) == session and state != "Z":
                found.append(int(path.parent.name))
    return found


def _memory(process: int, field: str) -> int:
    """In bytes; 0 for a process that has just ended."""
    with suppress(OSError):
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), 0)
    return 0


def _main_thread_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/task/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _waits_for_processor(process: int) -> Iterator[tuple[int, float]]:
    for path in Path(f"/proc/{process}/task").glob("*/schedstat"):
        with suppress(OSError):
            yield int(path.parent.name), int(path.read_text().split()[1]) / 1e9
