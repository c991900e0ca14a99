"""The load generator's client, against a server that says exactly what it is told to."""

import asyncio
import json
from collections.abc import Sequence

import pytest

from benchmarks.event_client import Response, post_for_events
from benchmarks.serving import Timing

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _ask(pieces: Sequence[bytes]) -> tuple[Response, list[bytes]]:
    """What the client makes of an answer that comes in these pieces, after which the server leaves."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.close()
        left.set()

    left = asyncio.Event()
    events: list[bytes] = []
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        try:
            return await post_for_events(f"http://127.0.0.1:{port}/v1/completions", b"{}", events.append), events
        finally:
            await left.wait()
            await asyncio.sleep(0.01)  # both ends see the other leave


def test_events_arrive_whole_however_they_are_cut() -> None:
    text = b'data: {"a": 1}\r\n\r\n: keep-alive\n\ndata: {"b": 2}\n\ndata: [DONE]\n\n'
    expected = [b'{"a": 1}', b'{"b": 2}', b"[DONE]"]
    for cut in (4, 13, 30):
        response, events = asyncio.run(_ask([HEAD, chunk(text[:cut]), chunk(text[cut:]), chunk(b"")]))
        assert (response.status, [event.strip() for event in events]) == (200, expected)


def test_an_error_answer_has_its_status_its_headers_and_no_events() -> None:
    body = b'{"error": {"message": "no"}}'
    head = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3\r\nContent-Length: %d\r\n\r\n" % len(body)
    response, events = asyncio.run(_ask([head + body]))
    assert (response.status, response.headers["retry-after"], events) == (429, "3", [])


def test_an_answer_that_breaks_off_is_an_error() -> None:
    with pytest.raises(ConnectionError, match="not complete"):
        asyncio.run(_ask([HEAD, chunk(b"data: {}\n\n")]))


def test_only_plain_http_is_measured() -> None:
    with pytest.raises(ValueError, match="http://"):
        asyncio.run(post_for_events("https://127.0.0.1:1/", b"{}", lambda event: None))


def test_events_with_a_choice_are_timed_and_tokens_read() -> None:
    timing = Timing()
    for event in (
        {"choices": [{"text": "a"}], "usage": None},
        {"choices": [], "usage": {"completion_tokens": 7}},
        {"usage": {"completion_tokens": 8}},
        {"error": {"message": "no"}},
    ):
        timing.note(json.dumps(event).encode())
    timing.note(b"[DONE]")
    assert (len(timing.events), timing.tokens) == (1, 8)
