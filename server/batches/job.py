"""One batch from its input file to its output files: validate, answer, finalize. Resumes wherever it was stopped."""

import asyncio
import itertools
import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial

from server.batches.directory import BatchDirectory
from server.batches.executor import RequestExecutor, answer
from server.batches.journal import Journal, JournalDamagedError, Result
from server.batches.output_files import close_open_requests, write_output_files
from server.batches.request_lines import InputValidator, read_request, response_line
from server.batches.request_queue import RequestQueue
from server.batches.slots import Slots
from server.batches.types import Batch, BatchError, BatchStatus, RequestCounts
from server.errors import RequestError

INVALID_INPUT, SERVER_ERROR = "invalid_input", "server_error"  # of JobCounts: errors in lines, and faults of ours
PAGE = 1000  # requests that are written to the journal at a time
UNANSWERED = {
    BatchStatus.EXPIRED: ("batch_expired", "This request was not answered before the batch expired."),
    BatchStatus.CANCELLED: ("batch_cancelled", "This request was not answered before the batch was cancelled."),
}

JobError = JournalDamagedError | RequestError | OSError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JobCounts:
    """What the jobs of a server have done since its start."""

    answered: Counter[bool] = field(default_factory=Counter)  # requests, by whether they succeeded
    failed: Counter[str] = field(default_factory=Counter)  # batches that failed or stopped, by the code of the error


class BatchJob:
    """Runs one unfinished batch. `slots` bounds the requests of all batches that are answered at a time, and `turns`
    the batches whose files are read or written as a whole, which takes the event loop's time.

    A status is durable before the work that belongs to it begins, and a result before it is counted. So after a crash
    the job goes on with the status it finds: validation and finalization are done again, answered requests are not.
    What blocks runs in threads.
    """

    def __init__(
        self,
        batch: Batch,
        directory: BatchDirectory,
        executor: RequestExecutor,
        slots: Slots,
        turns: Slots,
        counts: JobCounts,
        workers: int,
    ) -> None:
        self._id, self._store, self._files = batch.id, directory.batches, directory.files
        self._threads = directory.threads
        self._executor, self._counts, self._workers = executor, counts, workers
        self._slots, self._turns = slots, turns
        self._input = directory.files.path(batch.input_file_id)
        self._cancelled = asyncio.Event()

    @property
    def _batch(self) -> Batch:
        return self._store.at(self._id)

    @property
    def _is_validated(self) -> bool:
        """Whether the journal has all requests. A batch that was cancelled before that has counted none."""
        batch = self._batch
        unknown = batch.status is BatchStatus.CANCELLING and batch.counts.total == 0
        return batch.status is not BatchStatus.VALIDATING and not unknown

    def cancel(self) -> None:
        """Abort what runs and end the batch with the results there are. Its status is `cancelling` already."""
        self._cancelled.set()

    async def run(self) -> None:
        """Bring the batch to a final status. Cancel this call to stop: the job goes on from there another time."""
        journal: Journal | None = None
        try:
            journal = await self._threads.run(Journal, self._store.journal_path(self._id))
            await self._run(journal)
        except (JournalDamagedError, RequestError, OSError) as error:
            await self._threads.run(self._fail, journal, error)
        finally:
            if journal is not None:
                await self._threads.run(journal.close)

    async def _run(self, journal: Journal) -> None:
        if not self._is_validated:
            async with self._turns.one_for(self._batch.owner):
                await self._threads.run(self._validate, journal)
        if self._batch.status.is_final:
            return
        status = await self._answer_until_the_end(journal)
        async with self._turns.one_for(self._batch.owner):
            await self._threads.run(self._finalize, journal, status)

    def _validate(self, journal: Journal) -> None:
        """Write the requests of the input file into the journal, from the start if that was interrupted."""
        journal.clear()
        validator = InputValidator(self._input, self._batch.endpoint, self._store.limits)
        requests = validator.requests()
        while page := list(itertools.islice(requests, PAGE)):
            journal.add(page)
            self._take_room(journal)
        counts = journal.counts()
        if validator.errors:
            self._counts.failed[INVALID_INPUT] += 1
            self._store.enter(self._id, BatchStatus.FAILED, errors=tuple(validator.errors), counts=counts)
        else:
            self._store.enter(self._id, BatchStatus.IN_PROGRESS, counts=counts)

    async def _answer_until_the_end(self, journal: Journal) -> BatchStatus:
        """Answer the open requests. Returns how that ended: COMPLETED, CANCELLED or EXPIRED."""
        queue = await self._threads.run(self._open_queue, journal)
        if self._batch.status is BatchStatus.CANCELLING:
            return BatchStatus.CANCELLED
        if self._batch.status is BatchStatus.FINALIZING:  # each request has its result, however late it is by now
            return BatchStatus.COMPLETED
        tasks = [asyncio.create_task(self._work(queue)) for _ in range(self._workers)]
        work, cancelled = asyncio.gather(*tasks), asyncio.create_task(self._cancelled.wait())
        try:
            seconds = max(0.0, self._batch.expires_at - time.time())
            await asyncio.wait((work, cancelled), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
                return BatchStatus.COMPLETED
            return BatchStatus.CANCELLED if cancelled.done() else BatchStatus.EXPIRED
        finally:
            for task in (*tasks, cancelled):
                task.cancel()
            await asyncio.gather(*tasks, work, cancelled, return_exceptions=True)

    def _open_queue(self, journal: Journal) -> RequestQueue:
        """Raises JournalDamagedError if the journal has lost requests."""
        counts = journal.counts()
        if self._batch.counts.total not in (0, counts.total):
            raise JournalDamagedError(f"it has {counts.total} of {self._batch.counts.total} requests")

        def wrote(counts: RequestCounts) -> None:
            self._take_room(journal)
            self._store.count(self._id, counts)

        wrote(counts)
        return RequestQueue(journal, counts, wrote, self._threads)

    async def _work(self, queue: RequestQueue) -> None:
        """Answer one request after another."""
        while (position := await queue.next()) is not None:
            read = partial(self._threads.run, read_request, self._input, position)
            found = await answer(self._executor, self._slots, self._batch.owner, read)
            line = response_line(position.custom_id, found.status, found.request_id, found.body)
            succeeded = found.status == 200
            await queue.record(Result(position.line, succeeded, line))
            self._counts.answered[succeeded] += 1

    def _finalize(self, journal: Journal, status: BatchStatus) -> None:
        """Write the output files and end the batch."""
        if status is BatchStatus.COMPLETED:
            self._store.enter(self._id, BatchStatus.FINALIZING)
            if self._batch.status is BatchStatus.CANCELLING:
                status = BatchStatus.CANCELLED
        else:
            close_open_requests(journal, *UNANSWERED[status])
        self._end(journal, status)

    def _end(self, journal: Journal, status: BatchStatus, errors: tuple[BatchError, ...] = ()) -> None:
        counts = journal.counts()
        output_file_id, error_file_id = write_output_files(journal, self._batch, self._files)
        self._store.enter(
            self._id,
            status,
            counts=counts,
            errors=errors,
            output_file_id=output_file_id,
            error_file_id=error_file_id,
        )

    def _fail(self, journal: Journal | None, error: JobError) -> None:
        """End the batch with the reason and with the results there are. While these cannot be written, it only stops.

        One that a command runs always stops: whoever gave the command can give it again.
        """
        reason = _reason(error)
        logger.error("batch %s failed: %s", self._id, error)
        self._counts.failed[reason.code] += 1
        if isinstance(error, JournalDamagedError):
            self._store.fail(self._id, reason)
        elif journal is None or self._batch.endpoint is None:
            self._store.stop(self._id, reason)
        else:
            try:
                self._end(journal, BatchStatus.FAILED, (reason,))
            except (JournalDamagedError, RequestError, OSError):
                self._store.stop(self._id, reason)

    def _take_room(self, journal: Journal) -> None:
        """Count the journal, and as much again for the output files. Raises InvalidRequestError beyond the quota."""
        self._store.disk.resize(self._id, 2 * journal.bytes)


def _reason(error: JobError) -> BatchError:
    if isinstance(error, RequestError):
        return BatchError(error.code or SERVER_ERROR, error.message)
    if isinstance(error, JournalDamagedError):
        return BatchError("journal_damaged", f"The journal of this batch is damaged: {error}. Create the batch again.")
    return BatchError("io_error", f"The files of this batch cannot be used: {error.strerror}.")  # without its path
