"""The open requests of a batch, handed out one at a time, and their results, written several at a time."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from server.batches.journal import Journal, RequestPosition, Result
from server.batches.types import RequestCounts

PAGE = 200  # requests that are read from the journal at a time

# Not asyncio's own threads: in those, requests of clients do what takes long, and would wait for disks.
_THREADS = ThreadPoolExecutor(8, thread_name_prefix="batches")

Returned = TypeVar("Returned")


class RequestQueue:
    """`wrote` is called in a thread with the counts after each transaction; what it raises, `record` raises."""

    def __init__(self, journal: Journal, counts: RequestCounts, wrote: Callable[[RequestCounts], None]) -> None:
        self.counts = counts
        self._journal, self._wrote = journal, wrote
        self._page: deque[RequestPosition] = deque()
        self._last_line = 0
        self._unwritten: list[Result] = []
        self._busy = asyncio.Lock()  # the journal takes one call at a time

    async def next(self) -> RequestPosition | None:
        """The next request without a result, None after the last."""
        async with self._busy:
            if not self._page:
                self._page.extend(await in_thread(self._journal.open_requests, self._last_line, PAGE))
            if not self._page:
                return None
            position = self._page.popleft()
            self._last_line = position.line
            return position

    async def record(self, result: Result) -> None:
        """Returns when the result is durable. Results that come while one is written share the next transaction."""
        self._unwritten.append(result)
        async with self._busy:
            results, self._unwritten = self._unwritten, []
            if results:
                await in_thread(self._write, results)

    def _write(self, results: list[Result]) -> None:
        self._journal.record(results)
        completed = sum(result.succeeded for result in results)
        failed = len(results) - completed
        self.counts = replace(
            self.counts, completed=self.counts.completed + completed, failed=self.counts.failed + failed
        )
        self._wrote(self.counts)


async def in_thread(function: Callable[..., Returned], *arguments: object) -> Returned:
    """Call a function that blocks in a thread. If this is cancelled, the function still ends before it raises."""
    call = asyncio.get_running_loop().run_in_executor(_THREADS, function, *arguments)
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        await asyncio.wait((call,))
        call.exception()  # nobody asks for it any more, which asyncio would log
        raise
