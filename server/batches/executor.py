"""What answers one request of a batch, and when it is tried again."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from server.batches.request_lines import BatchRequest
from server.batches.slots import Slots

MAX_ATTEMPTS = 3  # of a request that the server failed to answer
BUSY = (429, 503)  # the queue is full, or the server is stopping: tried again without an end
DEFAULT_RETRY_SECONDS = 1.0
POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class BatchResponse:
    """What the endpoint answered. `retry_after` in seconds, where it says so."""

    status: int
    request_id: str
    body: bytes
    retry_after: float | None = None


class RequestExecutor(Protocol):
    """Answers requests as the HTTP endpoints do. Cancelling the call aborts the request."""

    async def __call__(self, owner: str, url: str, body: bytes) -> BatchResponse: ...

    def is_free(self) -> bool:
        """Whether a request of a batch may start now, without getting in the way of others."""
        ...


async def answer(
    executor: RequestExecutor, slots: Slots, owner: str, read: Callable[[], Awaitable[BatchRequest]]
) -> BatchResponse:
    """Answer a request of the key `owner` when one of the `slots` is free and the server has time for it.

    It is read then, and not before: many batches wait with many requests, which may be large.
    """
    attempt = 0
    while True:
        async with slots.one_for(owner):
            while not executor.is_free():  # noqa: ASYNC110
                await asyncio.sleep(POLL_SECONDS)
            request = await read()
            found = await executor(owner, request.url, request.body)
        attempt += found.status not in BUSY
        if found.status not in BUSY and (found.status < 500 or attempt >= MAX_ATTEMPTS):
            return found
        await asyncio.sleep(found.retry_after or DEFAULT_RETRY_SECONDS)
