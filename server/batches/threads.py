"""The threads in which the files and journals of batches are read and written."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

NUM_THREADS = 8

Returned = TypeVar("Returned")


class DiskThreads:
    """Calls that wait for a disk, away from the event loop.

    They are not asyncio's own threads: in those, requests of clients do what takes long, and would wait for disks.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="batches")

    async def run(self, function: Callable[..., Returned], *arguments: object) -> Returned:
        """Call a function that blocks. If this is cancelled, the function still ends before it raises."""
        call = asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            while not call.done():
                with suppress(asyncio.CancelledError):  # cancelled again
                    await asyncio.wait((call,))
            call.exception()  # nobody asks for it any more, which asyncio would log
            raise

    def close(self) -> None:
        """Return when all calls have ended. From now on `run` raises RuntimeError."""
        self._executor.shutdown()
