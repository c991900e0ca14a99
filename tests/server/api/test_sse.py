"""Streams byte by byte: events, the end, keep-alives, failures, and a client that leaves."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest

from server.api.sse import EventStream
from server.errors import EngineFailedError

Events = AsyncGenerator[dict[str, Any], None]


class Connection:
    """An ASGI connection that records what is sent; the client leaves after `chunks` of them, or never."""

    def __init__(self, leave_after: int | None = None) -> None:
        self.start: dict[str, Any] = {}
        self.chunks: list[bytes] = []
        self.ended = False
        self._leave_after = leave_after
        self._left = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.start = message
            return
        assert not self.ended, "something was sent after the end"
        self.chunks.append(message["body"])
        self.ended = not message["more_body"]
        if len(self.chunks) == self._leave_after:
            self._left.set()

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)


def serve(make: Callable[[], Events], connection: Callable[[], Connection], keep_alive: float = 15.0) -> Connection:
    async def run() -> Connection:
        client = connection()
        response: Callable[..., Awaitable[None]] = EventStream(make(), keep_alive)
        async with asyncio.timeout(10):
            await response({"type": "http"}, client.receive, client.send)
        return client

    return asyncio.run(run())


def test_the_bytes_of_a_stream() -> None:
    async def events() -> Events:
        yield {"text": "a\nb", "n": 1}
        yield {"text": "你好"}

    client = serve(events, Connection)
    assert client.body == 'data: {"text":"a\\nb","n":1}\n\ndata: {"text":"你好"}\n\ndata: [DONE]\n\n'.encode()
    assert client.ended
    headers = dict(client.start["headers"])
    assert headers[b"content-type"].startswith(b"text/event-stream")
    assert headers[b"cache-control"] == b"no-cache"
    assert headers[b"x-accel-buffering"] == b"no"
    assert b"content-length" not in headers


def test_silence_is_filled_with_comments() -> None:
    async def events() -> Events:
        yield {"n": 1}
        await asyncio.sleep(0.12)
        yield {"n": 2}

    parts = serve(events, Connection, keep_alive=0.03).body.split(b"\n\n")
    assert parts[0] == b'data: {"n":1}'
    assert parts[1] == b": keep-alive"
    assert parts[-3:] == [b'data: {"n":2}', b"data: [DONE]", b""]
    assert set(parts[1:-3]) == {b": keep-alive"}


def test_a_busy_stream_has_no_comments() -> None:
    async def events() -> Events:
        for n in range(20):
            await asyncio.sleep(0.005)
            yield {"n": n}

    assert b"keep-alive" not in serve(events, Connection, keep_alive=1.0).body


def test_a_failure_is_an_event_and_the_end_comes_all_the_same() -> None:
    async def events() -> Events:
        yield {"n": 1}
        raise EngineFailedError("The step failed.")

    first, error, done, rest = serve(events, Connection).body.split(b"\n\n")
    assert first == b'data: {"n":1}'
    assert json.loads(error.removeprefix(b"data: ")) == {
        "error": {"message": "The step failed.", "type": "server_error", "param": None, "code": "engine_error"}
    }
    assert (done, rest) == (b"data: [DONE]", b"")


def test_what_failed_inside_is_not_told_but_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def events() -> Events:
        yield {"n": 1}
        raise KeyError("secret")

    body = serve(events, Connection).body
    assert b"secret" not in body
    assert b"engine_error" in body
    assert body.endswith(b"data: [DONE]\n\n")
    assert "secret" in caplog.text


@pytest.mark.parametrize("waiting", [True, False])
def test_when_the_client_leaves_the_events_are_closed_at_once(waiting: bool) -> None:
    closed = []

    async def events() -> Events:
        try:
            yield {"n": 1}
            while True:
                await asyncio.sleep(60 if waiting else 0)
                yield {"n": 2}
        finally:
            closed.append(True)

    client = serve(events, lambda: Connection(leave_after=1))
    assert closed == [True]
    assert not client.ended


def test_characters_that_some_parsers_take_for_the_end_of_a_line_are_escaped() -> None:
    text = "a\u0085b\u2028c\u2029d\u00e4\u2027"

    async def events() -> Events:
        yield {"text": text}

    body = serve(events, Connection).body.decode()
    assert len(body.splitlines()) == len(body.split("\n")) - 1
    assert json.loads(body.splitlines()[0].removeprefix("data: ")) == {"text": text}
    assert "\u00e4" in body, "other characters stay as they are"


def test_the_headers_do_not_wait_for_the_first_event() -> None:
    started = asyncio.Event()

    class Client(Connection):
        async def send(self, message: dict[str, Any]) -> None:
            await super().send(message)
            if message["type"] == "http.response.start":
                started.set()

    async def events() -> Events:
        await started.wait()
        yield {"n": 1}

    assert serve(events, Client).ended


def test_a_comment_that_waits_for_a_slow_client_does_not_come_after_the_end() -> None:
    """The events end while a comment waits until the client has read."""

    class Client(Connection):
        async def send(self, message: dict[str, Any]) -> None:
            if message.get("body", b"").startswith(b":"):
                commented.set()
                await asyncio.sleep(0.02)
                late.append(message)
            await super().send(message)
            if self.ended:
                await asyncio.sleep(0.1)

    async def events() -> Events:
        yield {"n": 1}
        await commented.wait()

    commented = asyncio.Event()
    late: list[dict[str, Any]] = []
    client = serve(events, Client, keep_alive=0.01)
    assert client.body == b'data: {"n":1}\n\ndata: [DONE]\n\n'
    assert late == []
