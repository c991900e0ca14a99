"""Clients of `benchmarks.chaos`: one that reads its answer and looks at how it ends, and those that misbehave."""

import asyncio
import json
import random
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from urllib.parse import urlsplit

from benchmarks.event_client import ends_answer, post_for_events, request_head

VOCABULARY = 7680
SMALL_BUFFER = 4096  # bytes that the kernel keeps for a slow reader
SLOW_READ_SECONDS = 0.2  # between two reads of a slow reader
MOST_SECONDS = 20.0  # that a client misbehaves

Kind = Callable[["Clients"], Awaitable[None]]


class Clients:
    """Starts clients against one server, and counts what became of them in `outcomes`."""

    def __init__(self, url: str, seed: int) -> None:
        self._url, self.draw = f"{url}/v1/completions", random.Random(seed)
        self.outcomes: Counter[str] = Counter()

    async def one(self) -> None:
        """A client of a random kind. It never raises."""
        (kind,) = self.draw.choices(list(KINDS), list(KINDS.values()))
        name = kind.__name__
        try:
            await kind(self)
        except (OSError, TimeoutError) as error:
            self.outcomes[f"{name}: {type(error).__name__}"] += 1
        else:
            self.outcomes[name] += 1

    async def reads_all(self) -> None:
        """The status is counted, and of a stream how many terminal events it had: there must be one."""
        ends = 0

        def on_event(data: bytes) -> None:
            nonlocal ends
            ends += ends_answer(data)

        response = await post_for_events(self._url, self._body(), on_event)
        self.outcomes[f"status {response.status}"] += 1
        if response.status == 200:
            self.outcomes[f"{ends} terminal events"] += 1

    async def cancels(self) -> None:
        """Closes the connection somewhere in the answer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.draw.uniform(0, 2)):
                await post_for_events(self._url, self._body(), lambda data: None)

    async def reads_slowly(self) -> None:
        """A few bytes now and then, of a long answer with log-probabilities."""
        reader, writer = await self._connect(SMALL_BUFFER)
        writer.write(self._request(logprobs=20, max_tokens=400))
        for _ in range(int(self._some_time() / SLOW_READ_SECONDS)):
            await reader.read(200)
            await asyncio.sleep(SLOW_READ_SECONDS)
        writer.transport.abort()

    async def stays_half_open(self) -> None:
        """Sends the beginning of a request and no more."""
        _, writer = await self._connect()
        request = self._request()
        writer.write(request[: self.draw.randrange(len(request))])
        await asyncio.sleep(self._some_time())
        writer.transport.abort()

    async def resets(self) -> None:
        """Sends a request and resets the connection, without the handshake of a close."""
        _, writer = await self._connect()
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.write(self._request())
        await asyncio.sleep(self.draw.uniform(0, 0.5))
        writer.transport.abort()

    def _some_time(self) -> float:
        return self.draw.uniform(1, MOST_SECONDS)

    def _body(self, **fields: int) -> bytes:
        prompt = [self.draw.randrange(32, VOCABULARY) for _ in range(self.draw.randrange(4, 200))]
        tokens = self.draw.randrange(4, 64)
        body = {"prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "stream": True} | fields
        return json.dumps(body).encode()

    def _request(self, **fields: int) -> bytes:
        body, where = self._body(**fields), urlsplit(self._url)
        return request_head(where.path, where.netloc, len(body), None) + body

    async def _connect(self, buffer: int | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        where, opened = urlsplit(self._url), socket.socket()
        opened.setblocking(False)
        if buffer is not None:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        await asyncio.get_running_loop().sock_connect(opened, (where.hostname, where.port))
        return await asyncio.open_connection(sock=opened, limit=buffer or 2**16)


KINDS: dict[Kind, int] = {  # of a hundred clients
    Clients.reads_all: 70,
    Clients.cancels: 15,
    Clients.resets: 5,
    Clients.reads_slowly: 5,
    Clients.stays_half_open: 5,
}
