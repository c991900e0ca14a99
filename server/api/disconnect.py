"""Clients that close the connection before their answer is complete."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
from starlette.types import Receive


@contextmanager
def cancelled_on_disconnect(receive: Receive) -> Iterator[None]:
    """Cancel the block when the client leaves; what comes after it is reached then, too.

    The block stays in the task it is in: one more task, which watches the client, takes half the time of a task group.
    """
    with anyio.CancelScope() as scope:
        watching = asyncio.create_task(_cancel_on_disconnect(receive, scope))
        try:
            yield
        finally:
            watching.cancel()


async def _cancel_on_disconnect(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
