"""The records of all batches: one JSON file each, replaced as a whole whenever the status changes."""

import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from server.batches.disk import Disk, remove
from server.batches.journal import delete_journal
from server.batches.types import Batch, BatchError, BatchLimits, BatchStatus, RequestCounts, new_id
from server.errors import ConflictError, DiskFullError, InvalidRequestError, NotFoundError

FOLLOWERS = {
    BatchStatus.VALIDATING: (BatchStatus.IN_PROGRESS, BatchStatus.FAILED, BatchStatus.CANCELLING),
    BatchStatus.IN_PROGRESS: (
        *(BatchStatus.FINALIZING, BatchStatus.FAILED, BatchStatus.EXPIRED, BatchStatus.CANCELLING),
    ),
    BatchStatus.CANCELLING: (BatchStatus.CANCELLED, BatchStatus.FAILED, BatchStatus.EXPIRED),
    BatchStatus.FINALIZING: (BatchStatus.COMPLETED, BatchStatus.FAILED),
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BatchDescription:
    """What a client asks for. `seconds`: how long requests may take until the batch expires."""

    owner: str
    endpoint: str | None
    input_file_id: str
    completion_window: str
    seconds: int
    metadata: Mapping[str, str] | None = None
    output_seconds: int | None = None


class BatchStore:
    """All batches of one directory. Its methods may be called in several threads; those that write block.

    The records are in memory too, with counts that are newer than those on the disk: while a batch runs, its journal
    has the truth about them.
    """

    def __init__(self, disk: Disk, limits: BatchLimits) -> None:
        self.disk, self.limits = disk, limits
        self._directory = disk.directory / "batches"
        self._directory.mkdir(exist_ok=True)
        self._lock, self._entering = threading.Lock(), threading.Lock()
        self._batches = self._read_records()

    def journal_path(self, batch_id: str) -> Path:
        """Where the journal of an unfinished batch is."""
        return self._directory / f"{batch_id}.sqlite3"

    def create(self, description: BatchDescription) -> Batch:
        """Raises InvalidRequestError if there are too many unfinished batches."""
        now = int(time.time())
        batch = Batch(
            id=new_id("batch_"),
            owner=description.owner,
            endpoint=description.endpoint,
            input_file_id=description.input_file_id,
            completion_window=description.completion_window,
            created_at=now,
            expires_at=now + description.seconds,
            metadata=description.metadata,
            output_seconds=description.output_seconds,
        )
        if len(self.unfinished()) >= self.limits.max_unfinished:
            raise InvalidRequestError(
                f"This server works at up to {self.limits.max_unfinished} batches: wait until one is done, or cancel "
                "one.",
                code="quota_exceeded",
            )
        self._write(batch)
        self._forget_oldest()
        return batch

    def get(self, batch_id: str, owner: str) -> Batch:
        """Raises NotFoundError for a batch that does not exist or belongs to another key."""
        batch = self._batches.get(batch_id)
        if batch is None or batch.owner != owner:
            raise NotFoundError(f"There is no batch '{batch_id[:100]}'.")
        return batch

    def list(self, owner: str) -> Sequence[Batch]:
        """The batches of a key, newest first."""
        return [batch for batch in self._newest_first() if batch.owner == owner]

    def all(self) -> Sequence[Batch]:
        with self._lock:
            return list(self._batches.values())

    def unfinished(self) -> Sequence[Batch]:
        """Oldest first."""
        return [batch for batch in reversed(self._newest_first()) if not batch.status.is_final]

    def check_unused(self, file_id: str) -> None:
        """Raises ConflictError if an unfinished batch reads the file."""
        for batch in self.unfinished():
            if batch.input_file_id == file_id:
                raise ConflictError(f"The batch '{batch.id}' reads this file: cancel it, or wait until it is done.")

    def at(self, batch_id: str) -> Batch:
        """A batch that exists."""
        return self._batches[batch_id]

    def enter(self, batch_id: str, status: BatchStatus, **changes: Any) -> Batch:
        """Give a batch its next status, durably, and return it. Where it cannot follow, the batch stays as it is.

        A finished batch has no journal any more.
        """
        with self._entering:
            batch = self._batches[batch_id]
            if status not in FOLLOWERS.get(batch.status, ()):
                return batch
            times = {**batch.times, f"{status}_at": int(time.time())}
            batch = replace(batch, status=status, times=times, **changes)
            self._write(batch)
        if status.is_final:
            delete_journal(self.journal_path(batch_id))
            self.disk.forget(batch_id)
        return batch

    def fail(self, batch_id: str, reason: BatchError) -> None:
        """End a batch that is not finished with a reason, or stop it where even this cannot be written."""
        try:
            self.enter(batch_id, BatchStatus.FAILED, errors=(reason,))
        except (DiskFullError, OSError):
            self.stop(batch_id, reason)

    def stop(self, batch_id: str, reason: BatchError) -> None:
        """Show a batch as failed until a restart goes on with it: its record and its journal stay as they are."""
        logger.error("batch %s is only shown as failed; a restart goes on with it", batch_id)
        with self._entering, self._lock:
            batch = self._batches[batch_id]
            times = {**batch.times, f"{BatchStatus.FAILED}_at": int(time.time())}
            self._batches[batch_id] = replace(batch, status=BatchStatus.FAILED, times=times, errors=(reason,))

    def goes_on(self, batch_id: str) -> bool:
        """Whether a restart goes on with a batch: it has no final status, or was stopped."""
        return not self.at(batch_id).status.is_final or self.journal_path(batch_id).exists()

    def count(self, batch_id: str, counts: RequestCounts) -> None:
        """Show how far a batch is; nothing is written."""
        with self._lock:
            self._batches[batch_id] = replace(self._batches[batch_id], counts=counts)

    def _write(self, batch: Batch) -> None:
        self.disk.write_json(self._record_path(batch.id), asdict(batch))
        with self._lock:
            self._batches[batch.id] = batch

    def _newest_first(self) -> Sequence[Batch]:
        return sorted(self.all(), key=lambda batch: (batch.created_at, batch.id), reverse=True)

    def _forget_oldest(self) -> None:
        """Delete the records of the oldest finished batches beyond the limit. Their output files stay."""
        excess = len(self._batches) - self.limits.max_batches
        if excess <= 0:
            return
        finished = [batch for batch in self._newest_first() if not self.goes_on(batch.id)]
        for batch in finished[-excess:]:
            with self._lock:
                del self._batches[batch.id]
            remove(self._record_path(batch.id))

    def _record_path(self, batch_id: str) -> Path:
        return self._directory / f"{batch_id}.json"

    def _read_records(self) -> dict[str, Batch]:
        """All records. What cannot be read is shown as a failed batch, so that nothing disappears."""
        for path in self._directory.glob("*.part"):
            path.unlink()
        found = {}
        for path in self._directory.glob("*.json"):
            try:
                batch = Batch.from_json(json.loads(path.read_bytes()))
            except (OSError, ValueError, TypeError, KeyError) as error:
                logger.error("the record %s of a batch cannot be read: %s", path, error)
                batch = _unreadable(path, error)
            else:
                if batch.status.is_final:  # a crash may have come between the two
                    delete_journal(self.journal_path(batch.id))
            found[batch.id] = batch
        return found


def _unreadable(path: Path, error: Exception) -> Batch:
    created_at = int(path.stat().st_mtime)
    return Batch(
        id=path.stem,
        owner="",
        endpoint=None,
        input_file_id="",
        completion_window="",
        created_at=created_at,
        expires_at=created_at,
        status=BatchStatus.FAILED,
        times={"failed_at": created_at},
        errors=(BatchError("record_damaged", f"The record of this batch cannot be read: {error}."),),
    )
