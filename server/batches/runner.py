"""Runs the batches of a server in the background, and deletes files that have expired."""

import asyncio
import logging

from server.batches.directory import BatchDirectory
from server.batches.executor import RequestExecutor
from server.batches.job import SERVER_ERROR, BatchJob, JobCounts
from server.batches.slots import Slots
from server.batches.store import BatchDescription
from server.batches.types import Batch, BatchStatus
from server.errors import ConflictError

SWEEP_SECONDS = 60.0

logger = logging.getLogger(__name__)


class BatchRunner:
    """Runs the unfinished batches of a directory, at most `max_num_seqs` of their requests at a time.

    API keys take turns request by request, and so do the batches of a key. Create and use it on one event loop.
    """

    def __init__(self, directory: BatchDirectory, executor: RequestExecutor, max_num_seqs: int) -> None:
        self.directory = directory
        self.counts = JobCounts()
        self._executor = executor
        self._max_num_seqs = max_num_seqs
        self._slots, self._turns = Slots(max_num_seqs), Slots(1)
        self._jobs: dict[str, BatchJob] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Go on with what an earlier process has left."""
        for batch in self.directory.batches.unfinished():
            logger.info("batch %s goes on: %d of %d requests", batch.id, batch.counts.completed, batch.counts.total)
            self._start(batch)
        self._tasks["sweep"] = asyncio.create_task(self._sweep())

    async def create(self, description: BatchDescription) -> Batch:
        """Accept a batch, durably. Raises NotFoundError for its file, and InvalidRequestError beyond the limits."""
        batch = await self.directory.threads.run(self.directory.create_batch, description)
        self._start(batch)
        return batch

    async def cancel(self, batch_id: str, owner: str) -> Batch:
        """Raises NotFoundError, and ConflictError for a batch that has ended otherwise."""
        batches = self.directory.batches
        batches.get(batch_id, owner)
        batch = await self.directory.threads.run(batches.enter, batch_id, BatchStatus.CANCELLING)
        if batch.status not in (BatchStatus.CANCELLING, BatchStatus.CANCELLED):
            raise ConflictError(f"The batch '{batch_id}' is {batch.status.replace('_', ' ')} and cannot be cancelled.")
        if batch_id in self._jobs:
            self._jobs[batch_id].cancel()
        return batch

    async def wait(self, batch_id: str) -> None:
        """Return when the batch is finished."""
        if batch_id in self._tasks:
            await asyncio.wait((self._tasks[batch_id],))

    async def close(self) -> None:
        """Stop. Requests that are being answered are aborted; the next process answers them."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, batch: Batch) -> None:
        job = BatchJob(
            batch,
            self.directory,
            self._executor,
            self._slots,
            self._turns,
            self.counts,
            self._max_num_seqs,
        )
        self._jobs[batch.id] = job
        self._tasks[batch.id] = task = asyncio.create_task(job.run())
        task.add_done_callback(lambda task: self._ended(batch.id, task))

    def _ended(self, batch_id: str, task: asyncio.Task[None]) -> None:
        del self._jobs[batch_id], self._tasks[batch_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            self.counts.failed[SERVER_ERROR] += 1
            logger.error("batch %s stopped; it goes on when the server starts again", batch_id, exc_info=error)

    async def _sweep(self) -> None:
        while True:
            try:
                await self.directory.threads.run(self.directory.delete_expired)
            except OSError as error:
                logger.error("expired files cannot be deleted: %s", error)
            await asyncio.sleep(SWEEP_SECONDS)
