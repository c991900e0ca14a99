"""Handing over: in order, on the loop, and without a pause for the thread that hands over."""

import asyncio
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.engine.client.handover import Handover

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Receiver:
    """What arrived, and on which threads."""

    def __init__(self) -> None:
        self.items: list[int] = []
        self.threads: set[int] = set()
        self._arrival = asyncio.Event()

    def __call__(self, item: int) -> None:
        self.items.append(item)
        self.threads.add(threading.get_ident())
        self._arrival.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.items) < count:
                self._arrival.clear()
                await self._arrival.wait()


async def test_items_arrive_in_order_on_the_loop() -> None:
    received = Receiver()
    handover = Handover(received)
    await asyncio.to_thread(lambda: [handover.put(item) for item in range(1000)])
    await received.until(1000)
    assert received.items == list(range(1000))
    assert received.threads == {threading.get_ident()}
    handover.close()


async def test_a_pipe_that_is_full_loses_nothing() -> None:
    """The loop does not run meanwhile; a pipe holds 65,536 bytes."""
    received = Receiver()
    handover = Handover(received)
    for item in range(70_000):
        handover.put(item)
    await received.until(70_000)
    assert received.items == list(range(70_000))
    handover.close()


async def test_what_was_put_can_be_delivered_at_once() -> None:
    received = Receiver()
    handover = Handover(received)
    handover.put(1)
    handover.deliver()
    assert received.items == [1]
    await asyncio.sleep(0.01)  # the loop was woken for nothing
    assert received.items == [1]
    handover.close()


@pytest.fixture
def threads_never_take_the_lock() -> Iterator[None]:
    """From one that does not let go of it."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(100)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("threads_never_take_the_lock")
async def test_the_lock_is_kept() -> None:
    """So nothing has been received when `put` returns, however often it is called."""
    received = Receiver()
    handover = Handover(received)

    def put() -> list[int]:
        seen = []
        for item in range(100):
            handover.put(item)
            seen.append(len(received.items))
        return seen

    assert await asyncio.to_thread(put) == [0] * 100
    await received.until(100)
    handover.close()


@pytest.mark.usefixtures("threads_never_take_the_lock")
async def test_the_loops_own_way_gives_up_the_lock() -> None:
    """Negative control of the test before."""
    received, loop = Receiver(), asyncio.get_running_loop()

    def put() -> int:
        for item in range(10_000):
            loop.call_soon_threadsafe(received, item)
        return len(received.items)

    assert await asyncio.to_thread(put) > 0


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_it_closes_its_files_once() -> None:
    before = open_files()
    handover = Handover(Receiver())
    assert open_files() == before + 2
    handover.close()
    handover.close()
    assert open_files() == before
