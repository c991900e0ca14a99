"""The open requests of a batch, handed out one at a time, and their results, written several at a time."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from server.batches.journal import Journal, RequestPosition, Result
from server.batches.threads import DiskThreads
from server.batches.types import RequestCounts

PAGE = 200  # requests that are read from the journal at a time


class RequestQueue:
    """`wrote` is called in a thread with the counts after each transaction; what it raises, `record` raises."""

    def __init__(
        self,
        journal: Journal,
        counts: RequestCounts,
        wrote: Callable[[RequestCounts], None],
        threads: DiskThreads,
    ) -> None:
        self.counts = counts
        self._journal, self._wrote, self._threads = journal, wrote, threads
        self._page: deque[RequestPosition] = deque()
        self._last_line = 0
        self._unwritten: list[Result] = []
        self._busy = asyncio.Lock()  # the journal takes one call at a time

    async def next(self) -> RequestPosition | None:
        """The next request without a result, None after the last."""
        async with self._busy:
            if not self._page:
                self._page.extend(await self._threads.run(self._journal.open_requests, self._last_line, PAGE))
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
                await self._threads.run(self._write, results)

    def _write(self, results: list[Result]) -> None:
        self._journal.record(results)
        completed = sum(result.succeeded for result in results)
        failed = len(results) - completed
        self.counts = replace(
            self.counts, completed=self.counts.completed + completed, failed=self.counts.failed + failed
        )
        self._wrote(self.counts)
