"""A real server of the bundled model on a free port: nothing is faked."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import pytest
from openai import AsyncOpenAI, OpenAI
from prometheus_client.parser import text_string_to_metric_families

from server.settings import Settings
from server.startup.backend import prepare_backend
from server.startup.uvicorn_server import in_background


class RunningServer:
    """Its address, clients for it, and a look at its own metrics."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.http = httpx.Client(base_url=url, timeout=120)
        self.openai = OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)

    def async_openai(self) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key="unused", max_retries=0, timeout=120)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a series' samples that carry those labels."""
        found = [
            sample.value
            for family in text_string_to_metric_families(self.http.get("/metrics").text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert found, f"no series {name} {labels}"
        return sum(found)

    def wait_until_idle(self) -> None:
        deadline = time.monotonic() + 30
        while self.metric("vllm:num_requests_running") + self.metric("vllm:num_requests_waiting") > 0:
            assert time.monotonic() < deadline, "requests remain"
            time.sleep(0.05)


@contextmanager
def serving(**settings: object) -> Iterator[RunningServer]:
    chosen = Settings(log_level="warning", drain_grace=5, threads=1, cache_bytes=2**28, **settings)  # type: ignore[arg-type]
    with in_background(chosen, prepare_backend(chosen)) as url:
        server = RunningServer(url)
        try:
            yield server
        finally:
            server.http.close()
            server.openai.close()


@contextmanager
def server_process(*options: str) -> Iterator[tuple[str, int]]:
    """URL and process id of `routelm serve` with the bundled model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "server", "serve", "--port", str(port), "--log-level", "warning", *options]
    process = subprocess.Popen(command)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
    try:
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(httpx.TransportError, httpx.HTTPStatusError):
                httpx.get(f"{url}/health/ready", trust_env=False).raise_for_status()
                break
            time.sleep(0.05)
        yield url, process.pid
    finally:
        process.terminate()
        assert process.wait(60) == 0


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving() as running:
        yield running
