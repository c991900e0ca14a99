"""Which bodies are read: up to a size, with and without a Content-Length, and not compressed."""

import asyncio
import gzip
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from server.middleware.body_limit import LARGE, BodyLimit
from tests.server.applications import client_of, make_server

LIMIT = 200


@pytest.fixture
def small() -> Iterator[TestClient]:
    with client_of(make_server(max_body_bytes=LIMIT)) as client:
        yield client


def body(size: int) -> bytes:
    empty = b'{"prompt": "", "max_tokens": 1}'
    return empty.replace(b'""', b'"' + b"a" * (size - len(empty)) + b'"')


def pieces(whole: bytes) -> Iterator[bytes]:
    for start in range(0, len(whole), 50):
        yield whole[start : start + 50]


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1])
@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_up_to_the_limit_is_read(small: TestClient, size: int, chunked: bool) -> None:
    content = body(size)
    assert len(content) == size
    headers = {"Content-Type": "application/json"}
    response = small.post("/v1/generate", content=pieces(content) if chunked else content, headers=headers)
    assert response.status_code == (200 if size <= LIMIT else 413), response.text
    if size > LIMIT:
        assert response.json()["error"]["code"] == "body_too_large"
        assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(("encoding", "status"), [("gzip", 415), ("br", 415), ("identity", 200), ("Identity", 200)])
def test_a_compressed_body_is_refused_by_name(small: TestClient, encoding: str, status: int) -> None:
    plain = body(100)
    content = gzip.compress(plain) if status == 415 else plain
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    response = small.post("/v1/generate", content=content, headers=headers)
    assert response.status_code == status
    if status == 415:
        error = response.json()["error"]
        assert error["code"] == "unsupported_content_encoding"
        assert f"encoded with {encoding}: send it without Content-Encoding" in error["message"]


@pytest.mark.anyio
@pytest.mark.parametrize(("size", "together"), [(LARGE + 1, 1), (LARGE, 6)])
async def test_large_bodies_are_handed_over_one_after_another(size: int, together: int) -> None:
    """Between two of them the event loop turns for others; small ones are handed over at once."""
    handed_over: list[int] = []
    turn = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        handed_over.append(turn)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"a" * size, "more_body": False}

    async def send(message: Message) -> None:
        raise AssertionError("nothing is refused")

    limit = BodyLimit(app, 2 * LARGE)
    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    async with asyncio.TaskGroup() as requests:
        tasks = [requests.create_task(limit(scope, receive, send)) for _ in range(6)]
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0)
            turn += 1
    assert max(handed_over.count(turn) for turn in handed_over) == together


@pytest.mark.anyio
async def test_only_the_end_of_a_large_body_is_delayed() -> None:
    """Not that its client disconnects, which ends its generations."""
    messages: list[Message] = [{"type": "http.request", "body": b"a" * (LARGE + 1)}, {"type": "http.disconnect"}]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        counting = asyncio.create_task(count_turns())
        assert (await receive())["type"] == "http.disconnect"
        counting.cancel()
        assert turns == 0

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        raise AssertionError("nothing is refused")

    await BodyLimit(app, 2 * LARGE)({"type": "http", "method": "POST", "path": "/", "headers": []}, receive, send)
