"""Calls that wait for a disk: they take no thread of the event loop, and end before their directory is closed."""

import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from server.batches.threads import DiskThreads
from server.errors import DiskFullError
from tests.server.batches.directories import open_directory

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def threads() -> Iterator[DiskThreads]:
    with closing(DiskThreads()) as made:
        yield made


async def test_the_threads_of_the_event_loop_are_free_for_others(threads: DiskThreads) -> None:
    release = threading.Event()
    busy = [asyncio.create_task(threads.run(release.wait)) for _ in range(100)]
    await asyncio.sleep(0)
    try:
        async with asyncio.timeout(5):
            assert await asyncio.to_thread(lambda: "done") == "done"
    finally:
        release.set()
        await asyncio.gather(*busy)


async def test_a_fault_in_a_thread_that_nobody_waits_for_is_no_trouble_of_the_loop(threads: DiskThreads) -> None:
    """As when the disk is full: one write fails, and the task of another is cancelled, whose write fails too."""
    reported, begun, end = list[Any](), threading.Event(), threading.Event()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    def fail() -> None:
        begun.set()
        end.wait()
        raise DiskFullError

    task = asyncio.create_task(threads.run(fail))
    await asyncio.to_thread(begun.wait)
    task.cancel()
    end.set()
    await asyncio.wait((task,))
    assert task.cancelled()
    del task
    gc.collect()
    assert reported == []


async def test_what_runs_ends_before_the_threads_are_closed() -> None:
    threads, ended = DiskThreads(), list[str]()

    def write() -> None:
        time.sleep(0.05)
        ended.append("written")

    call = asyncio.create_task(threads.run(write))
    await asyncio.sleep(0)
    threads.close()
    assert ended == ["written"]
    await call


async def test_a_directory_is_another_processs_when_what_writes_to_it_has_ended(tmp_path: Path) -> None:
    written = list[str]()
    with open_directory(tmp_path) as directory:

        def write() -> None:
            time.sleep(0.05)
            with pytest.raises(ValueError, match="another server uses"), open_directory(tmp_path):
                pass
            written.append("written")

        call = asyncio.create_task(directory.threads.run(write))
        await asyncio.sleep(0)
    await call
    assert written == ["written"]


async def test_a_call_that_is_cancelled_twice_ends_all_the_same(threads: DiskThreads) -> None:
    begun, end, ended = threading.Event(), threading.Event(), list[str]()

    def write() -> None:
        begun.set()
        end.wait()
        ended.append("written")

    task = asyncio.create_task(threads.run(write))
    await asyncio.to_thread(begun.wait)
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0.01)
    assert not task.done()
    end.set()
    await asyncio.wait((task,))
    assert task.cancelled()
    assert ended == ["written"]
