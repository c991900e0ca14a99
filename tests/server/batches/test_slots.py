"""Slots that owners take in turns."""

import asyncio

import pytest

from server.batches.slots import Slots

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_owners_take_turns_and_each_waits_in_its_own_order() -> None:
    slots, order = Slots(1), list[str]()

    async def take(owner: str, name: str) -> None:
        async with slots.one_for(owner):
            order.append(name)
            await asyncio.sleep(0)

    names = ["a0", "a1", "a2", "a3", "b0", "b1", "c0"]
    await asyncio.gather(*(take(name[0], name) for name in names))
    assert order == ["a0", "a1", "b0", "c0", "a2", "b1", "a3"]


async def test_no_more_than_there_are_and_none_is_lost_when_tasks_are_cancelled() -> None:
    slots, held, most = Slots(3), 0, 0

    async def hold() -> None:
        nonlocal held, most
        async with slots.one_for("a"):
            held, most = held + 1, max(most, held + 1)
            try:
                await asyncio.sleep(0.001)
            finally:
                held -= 1

    for _ in range(5):
        tasks = [asyncio.create_task(hold()) for _ in range(40)]
        await asyncio.sleep(0.002)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert most == 3
    assert held == 0
    assert slots._free == 3
    assert not slots._waiting


async def test_a_slot_that_comes_as_its_task_is_cancelled_is_passed_on() -> None:
    slots = Slots(1)

    async def hold() -> None:
        async with slots.one_for("a"):
            pass

    async with slots.one_for("a"):
        first, second = (asyncio.create_task(hold()) for _ in range(2))
        await asyncio.sleep(0)
    first.cancel()  # its future has its result, but the task has not run since
    await asyncio.wait_for(second, 5)
    assert first.cancelled()
    assert slots._free == 1
