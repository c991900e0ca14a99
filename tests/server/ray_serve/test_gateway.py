"""A gateway in front of applications: what comes through, and what clients get when a replica dies."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.sse import OPENAI
from server.errors import OverloadedError, UnavailableError
from server.middleware.body_limit import BodyLimit
from server.ray_serve.forwarding import ForwardedRequest, Messages, answer
from server.ray_serve.gateway import Forward, Gateway
from tests.server.applications import Server, make_server

pytestmark = pytest.mark.anyio

LIMIT = 2**20
CHAT = {"messages": [{"role": "user", "content": "hello there, this is a question of some length"}], "max_tokens": 40}
STREAMS = {
    "/v1/chat/completions": (
        {**CHAT, "stream": True},
        b'data: {"error":{"message":"gone","type":"service_unavailable"',
    ),
    "/chat/completions/": ({**CHAT, "stream": True}, b'data: {"error":{"message":"gone","type":"service_unavailable"'),
    "/v1/generate": (
        {"prompt": "hello", "stream": True},
        b'data: {"error":{"message":"gone","type":"service_unavailable"',
    ),
    "/v1/messages": (
        {**CHAT, "stream": True},
        b'data: {"type":"error","error":{"type":"overloaded_error","message":"gone"',
    ),
    "/v1/responses": (
        {"input": "hello", "stream": True},
        b'data: {"type":"error","code":"unavailable","message":"gone"',
    ),
    "/api/chat": ({**CHAT, "model": "test-model"}, b'{"error":"gone"}'),
}


@dataclass
class Client:
    """One HTTP request and what came back."""

    path: str
    body: bytes
    method: str = "POST"
    messages: Messages = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    _read: bool = False

    async def call(self, app: ASGIApp) -> "Client":
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(self.body)).encode())]
        scope: Scope = {
            "type": "http",
            "method": self.method,
            "path": self.path,
            "query_string": b"",
            "headers": headers,
        }
        await app(scope, self._receive, self._send)
        return self

    async def _receive(self) -> Message:
        if self._read:
            await self.left.wait()
            return {"type": "http.disconnect"}
        self._read = True
        return {"type": "http.request", "body": self.body, "more_body": False}

    async def _send(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.messages[0]["headers"])

    @property
    def content(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    @property
    def complete(self) -> bool:
        return self.messages[-1]["type"] == "http.response.body" and not self.messages[-1].get("more_body", False)


def client(path: str, body: dict[str, Any]) -> Client:
    return Client(path, json.dumps(body).encode())


@asynccontextmanager
async def started(server: Server) -> AsyncGenerator[ASGIApp, None]:
    app = server.app()
    async with app.router.lifespan_context(app):
        yield app


def to(app: ASGIApp) -> Forward:
    def forward(request: ForwardedRequest) -> AsyncGenerator[Messages, None]:
        return answer(app, request)

    return forward


def dying_after(app: ASGIApp, count: int, error: Exception) -> Forward:
    """The replica dies after `count` messages."""

    async def forward(request: ForwardedRequest) -> AsyncGenerator[Messages, None]:
        seen = 0
        async for messages in answer(app, request):
            for message in messages:
                if seen == count:
                    raise error
                seen += 1
                yield [message]

    return forward


@pytest.mark.parametrize("path", STREAMS)
async def test_a_stream_comes_through_as_it_is(path: str) -> None:
    async with started(make_server()) as app:
        direct = await client(path, STREAMS[path][0]).call(app)
        through = await client(path, STREAMS[path][0]).call(Gateway(to(app), LIMIT))
    assert direct.status == through.status == 200
    assert through.complete
    assert through.headers[b"content-type"] == direct.headers[b"content-type"]
    assert len(through.content.splitlines()) == len(direct.content.splitlines()) > 3


async def test_errors_and_other_methods_come_through() -> None:
    async with started(make_server(api_key="secret")) as app:
        gateway = Gateway(to(app), LIMIT)
        refused = await client("/v1/completions", {"prompt": "x"}).call(gateway)
        live = await Client("/health/live", b"", "GET").call(gateway)
    assert refused.status == 401
    assert refused.headers[b"www-authenticate"] == b"Bearer"
    assert (live.status, json.loads(live.content)) == (200, {"status": "alive"})


async def test_requests_are_forwarded_with_their_digests() -> None:
    forwarded: list[ForwardedRequest] = []

    async def forward(request: ForwardedRequest) -> AsyncGenerator[Messages, None]:
        forwarded.append(request)
        yield [{"type": "http.response.start", "status": 204, "headers": []}, {"type": "http.response.body"}]

    for _ in range(2):
        await client("/v1/completions", {"prompt": "x" * 200}).call(Gateway(forward, LIMIT))
    one, other = forwarded
    assert one.prefix_digests == other.prefix_digests
    assert len(one.prefix_digests) == 3


@pytest.mark.parametrize("path", STREAMS)
async def test_a_stream_of_a_dead_replica_ends_with_one_error(path: str) -> None:
    body, error = STREAMS[path]
    async with started(make_server()) as app:
        dying = dying_after(app, 3, UnavailableError("gone", retry_after=1))
        got = await client(path, body).call(Gateway(dying, LIMIT))
    assert got.status == 200
    assert got.complete
    assert got.content.count(error) == 1
    assert got.content.count(b"gone") == 1
    assert got.content.endswith(OPENAI.end) == (b"[DONE]" in got.content)


async def test_an_answer_that_has_not_begun_is_a_503_that_can_be_repeated() -> None:
    async with started(make_server()) as app:
        dying = dying_after(app, 0, UnavailableError("gone", retry_after=1))
        got = await client("/v1/chat/completions", CHAT).call(Gateway(dying, LIMIT))
    assert (got.status, got.headers[b"retry-after"]) == (503, b"1")
    assert json.loads(got.content)["error"]["code"] == "unavailable"
    assert got.complete


async def test_a_body_that_is_cut_off_is_never_complete() -> None:
    async with started(make_server()) as app:
        dying, cut = dying_after(app, 1, UnavailableError("gone", retry_after=1)), client("/v1/chat/completions", CHAT)
        with pytest.raises(UnavailableError):  # which closes the connection
            await cut.call(Gateway(dying, LIMIT))
    assert not cut.complete


async def test_an_answer_without_an_end_is_an_error() -> None:
    async def forward(request: ForwardedRequest) -> AsyncGenerator[Messages, None]:
        yield [{"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}]
        yield [{"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True}]

    got = await client("/v1/completions", {"prompt": "x"}).call(Gateway(forward, LIMIT))
    assert b"before it was complete" in got.content
    assert got.content.endswith(b"data: [DONE]\n\n")


async def test_no_free_replica_is_told_with_a_time() -> None:
    async def forward(request: ForwardedRequest) -> AsyncGenerator[Messages, None]:
        raise OverloadedError("full", retry_after=10)
        yield []

    got = await client("/v1/completions", {"prompt": "x"}).call(Gateway(forward, LIMIT))
    assert (got.status, got.headers[b"retry-after"]) == (429, b"10")


async def test_a_body_is_bounded_before_it_is_forwarded() -> None:
    def forward(request: ForwardedRequest) -> AsyncGenerator[Messages, None]:
        raise AssertionError("forwarded")

    app = BodyLimit(Gateway(forward, 100), 100)
    told = await Client("/v1/completions", b"x" * 101).call(app)
    assert told.status == 413

    class Chunked(Client):
        async def call(self, app: ASGIApp) -> Client:
            scope: Scope = {"type": "http", "method": "POST", "path": self.path, "query_string": b"", "headers": []}
            await app(scope, self._receive, self._send)
            return self

    found = await Chunked("/v1/completions", b"x" * 101).call(app)
    assert found.status == 413
    assert json.loads(found.content)["error"]["code"] == "body_too_large"


async def test_a_client_that_leaves_ends_its_request_in_the_replica() -> None:
    begun, until = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        begun.set()
        assert (await receive())["type"] == "http.disconnect"
        until.set()

    call = asyncio.create_task(client("/v1/completions", {}).call(Gateway(to(app), LIMIT)))
    await begun.wait()
    call.cancel()  # what Serve does with the request of a client that has left
    await asyncio.wait([call])
    assert until.is_set()


async def test_a_client_that_leaves_while_it_sends_is_forgotten() -> None:
    gone = client("/v1/completions", {})
    gone.left.set()
    gone._read = True
    await gone.call(Gateway(to(make_server().app()), LIMIT))
    assert gone.messages == []


async def test_messages_that_wait_are_sent_together() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(5):
            await send({"type": "http.response.body", "body": b"%d" % number, "more_body": number < 4})

    request = ForwardedRequest("GET", "/", b"/", b"", [])
    sizes = [len(messages) async for messages in answer(app, request)]
    assert sum(sizes) == 6
    assert len(sizes) < 6


async def test_an_application_that_raises_ends_its_answer_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("broken")

    request = ForwardedRequest("GET", "/", b"/", b"", [])
    assert [messages async for messages in answer(app, request)] == []
    assert "RuntimeError: broken" in caplog.text
