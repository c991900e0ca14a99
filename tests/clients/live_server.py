"""The bundled model behind `routelm serve`, as a process of its own on a free port."""

import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOKENIZER = ROOT / "model" / "bundled"
MODEL = "routelm"
CONTEXT = 1024
START_SECONDS = 300
STOP_SECONDS = 60

_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get(url: str) -> str:
    with _direct.open(url, timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def answers(url: str) -> bool:
    try:
        get(url)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
    return True


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def requests_by_code(url: str) -> dict[int, int]:
    """How many POST requests the server has answered with each HTTP status, those of which there were any."""
    samples = re.findall(
        r'^routelm:http_requests_total\{.*code="(\d+)".*\} (\S+)$', get(f"{url}/metrics"), re.MULTILINE
    )
    return {int(code): int(float(count)) for code, count in samples if float(count)}


@contextmanager
def running_server(python: Path, log: Path, *options: str) -> Iterator[str]:
    """The URL of a new server, which is stopped at the end; its output is in `log`."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [str(python), "-m", "server", "serve", "--port", str(port), *options]
    with log.open("wb") as output, subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output) as process:
        try:
            wait_until_ready(url, process, log)
            yield url
            process.terminate()
            process.wait(STOP_SECONDS)
        finally:
            process.kill()


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not answers(f"{url}/health/ready"):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, f"not ready after {START_SECONDS} s: {log.read_text()}"
        time.sleep(0.1)
