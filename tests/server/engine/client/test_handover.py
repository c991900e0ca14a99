"""Handing over: in order, on the loop, and without a pause for the thread that hands over."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from server.engine.client.handover import Handover

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def received() -> list[int]:
    return []


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


async def test_items_arrive_in_order_on_the_loop(received: list[int]) -> None:
    threads = set()

    def receive(item: int) -> None:
        received.append(item)
        threads.add(threading.get_ident())

    handover = Handover(receive)
    await asyncio.to_thread(lambda: [handover.put(item) for item in range(1000)])
    await until(lambda: len(received) == 1000)
    assert received == list(range(1000))
    assert threads == {threading.get_ident()}
    handover.close()


async def test_a_pipe_that_is_full_loses_nothing(received: list[int]) -> None:
    """The loop does not run meanwhile; a pipe holds 65,536 bytes."""
    handover = Handover(received.append)
    for item in range(70_000):
        handover.put(item)
    await until(lambda: len(received) == 70_000)
    assert received == list(range(70_000))
    handover.close()


async def test_what_was_put_can_be_delivered_at_once(received: list[int]) -> None:
    handover = Handover(received.append)
    handover.put(1)
    handover.deliver()
    assert received == [1]
    await asyncio.sleep(0.01)  # the loop was woken for nothing
    assert received == [1]
    handover.close()


@pytest.fixture
def threads_never_take_the_lock() -> Iterator[None]:
    """From one that does not let go of it."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(100)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("threads_never_take_the_lock")
async def test_the_lock_is_kept(received: list[int]) -> None:
    """So nothing has been received when `put` returns, however often it is called."""
    handover = Handover(received.append)

    def put() -> list[int]:
        seen = []
        for item in range(100):
            handover.put(item)
            seen.append(len(received))
        return seen

    assert await asyncio.to_thread(put) == [0] * 100
    await until(lambda: len(received) == 100)
    handover.close()


@pytest.mark.usefixtures("threads_never_take_the_lock")
async def test_the_loops_own_way_gives_up_the_lock(received: list[int]) -> None:
    """Negative control of the test before."""
    loop = asyncio.get_running_loop()

    def put() -> int:
        for item in range(10_000):
            loop.call_soon_threadsafe(received.append, item)
        return len(received)

    assert await asyncio.to_thread(put) > 0


async def test_it_closes_its_files_once(received: list[int]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    handover = Handover(received.append)
    assert len(os.listdir("/proc/self/fd")) == before + 2
    handover.close()
    handover.close()
    assert len(os.listdir("/proc/self/fd")) == before
