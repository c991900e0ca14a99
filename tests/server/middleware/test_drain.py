"""SIGTERM to a real process: running requests finish, new ones are refused, the exit code is 0."""

import asyncio
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import pytest

from server.generation.segments import MAX_PARALLEL_SEGMENTS
from server.middleware.drain import Drain
from server.startup.listeners import bound
from server.startup.uvicorn_server import run
from tests.server.applications import make_server

FORKED = multiprocessing.get_context("forkserver")  # it has imported everything, so that a start takes a moment


def serve(port: int, grace: float, step_seconds: float) -> None:
    """In a process of its own."""
    server = make_server(port=port, drain_grace=grace)
    server.answer_with("x" * 40)
    server.engine.step_seconds = step_seconds
    with bound(server.settings) as listeners:
        run(server.settings, server.open_backend, listeners)


class Process:
    """A server in a process of its own."""

    def __init__(self, grace: float, step_seconds: float) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        FORKED.set_forkserver_preload([__name__])
        self.process = FORKED.Process(target=serve, args=(port, grace, step_seconds))
        self.process.start()
        self.body = ""
        self._request: tuple[str, dict[str, object]] = ("", {})
        self._reader = threading.Thread(target=self._read)
        self._started = threading.Event()

    def wait_until_alive(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.is_alive():
            try:
                httpx.get(f"{self.url}/health/live", trust_env=False)
                return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError("the server did not start")

    def start_stream(self, path: str = "/v1/generate", **body: object) -> None:
        self._request = path, {"prompt": "hi", "max_tokens": 100} if path == "/v1/generate" else body
        self._reader.start()
        assert self._started.wait(60)

    def end_of_stream(self) -> str:
        self._reader.join(60)
        return self.body

    def stop(self) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGTERM)

    def exit_code(self) -> int | None:
        self.process.join(30)
        return self.process.exitcode

    def _read(self) -> None:
        """In a thread; ends with the stream, or when the server breaks it off."""
        path, body = self._request
        with (
            suppress(httpx.TransportError),
            httpx.stream(
                "POST", self.url + path, json={**body, "stream": True}, timeout=60, trust_env=False
            ) as response,
        ):
            for text in response.iter_text():
                self.body += text
                self._started.set()


@contextmanager
def running(grace: float, step_seconds: float = 0.05) -> Iterator[Process]:
    server = Process(grace, step_seconds)
    try:
        server.wait_until_alive()
        yield server
    finally:
        server.process.kill()
        server.process.join()
        server.process.close()


def test_a_running_stream_is_finished_and_new_requests_are_refused() -> None:
    with running(grace=60, step_seconds=0.1) as server:
        server.start_stream()
        before = httpx.get(f"{server.url}/health/ready", trust_env=False)
        assert before.status_code == 200
        assert "connection" not in before.headers
        server.stop()
        time.sleep(0.3)
        ready = httpx.get(f"{server.url}/health/ready", trust_env=False)
        assert (ready.status_code, ready.json()) == (503, {"status": "draining"})
        assert httpx.get(f"{server.url}/health/live", trust_env=False).status_code == 200
        refused = httpx.post(f"{server.url}/v1/generate", json={"prompt": "hi"}, trust_env=False)
        assert refused.status_code == 503
        assert refused.headers["connection"] == "close"
        assert ready.headers["connection"] == "close"
        assert int(refused.headers["retry-after"]) >= 1
        body = server.end_of_stream()
        assert body.count("generation.chunk") == 40
        assert "generation.done" in body
        assert body.endswith("data: [DONE]\n\n")
        assert server.exit_code() == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/health/live", trust_env=False)


def test_a_long_text_is_translated_to_its_end() -> None:
    """Its later sentences reach the engine after the drain has begun."""
    with running(grace=60, step_seconds=0.02) as server:
        sentences = 2 * MAX_PARALLEL_SEGMENTS + 3
        server.start_stream("/v1/translate", text="It rains. " * sentences, source_lang="en", target_lang="de")
        server.stop()
        body = server.end_of_stream()
        assert body.count('"delta":"x"') == 40 * sentences
        assert "translation.done" in body
        assert server.exit_code() == 0


def test_what_outlasts_the_grace_period_ends_with_an_error_event() -> None:
    with running(grace=0.3, step_seconds=0.2) as server:
        server.start_stream()
        server.stop()
        body = server.end_of_stream()
        assert '"type":"service_unavailable"' in body
        assert body.endswith("data: [DONE]\n\n")
        assert server.exit_code() == 0


def test_an_idle_server_leaves_at_once_with_its_open_connections() -> None:
    with running(grace=60) as server, httpx.Client(trust_env=False) as idle:
        assert idle.get(f"{server.url}/health/live").status_code == 200
        server.stop()
        assert server.exit_code() == 0


def test_a_second_signal_ends_streams_with_an_error_event() -> None:
    with running(grace=60, step_seconds=0.5) as server:
        server.start_stream()
        server.stop()
        time.sleep(0.3)
        server.stop()
        body = server.end_of_stream()
        assert "generation.done" not in body
        assert '"type":"service_unavailable"' in body
        assert body.endswith("data: [DONE]\n\n")
        assert server.exit_code() == 0


def test_a_third_signal_does_not_wait() -> None:
    with running(grace=60, step_seconds=1.0) as server:
        server.start_stream()
        for _ in range(3):
            server.stop()
            time.sleep(0.3)
        assert server.exit_code() is not None
        assert "generation.done" not in server.body


@pytest.mark.anyio
async def test_background_work_that_does_not_stop_is_not_waited_for_beyond_the_grace_period() -> None:
    """As on a disk that does not answer. The engine is closed all the same."""
    closed: list[float] = []

    async def close_engine(seconds: float) -> None:
        closed.append(seconds)

    for cut_short in (False, True):
        drain = Drain(60 if cut_short else 0.01)
        drain.close_engine, drain.stop_background = close_engine, asyncio.Event().wait
        if cut_short:
            drain.cut_short()
        async with asyncio.timeout(5):
            await drain.finish()
    assert closed == [0.0, 0.0]


@pytest.mark.anyio
async def test_background_work_stops_before_the_engine_is_closed() -> None:
    done: list[str] = []

    async def stop_background() -> None:
        done.append("background")

    async def close_engine(seconds: float) -> None:
        done.append("engine")

    drain = Drain(60)
    drain.close_engine, drain.stop_background = close_engine, stop_background
    await drain.finish()
    assert done == ["background", "engine"]
