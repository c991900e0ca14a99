"""The files that clients send and that batches write: a content and a record each, in one directory."""

import json
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from server.batches.disk import Disk, DurableFile, remove
from server.batches.types import BatchLimits, StoredFile, new_id
from server.errors import FileTooLargeError, InvalidRequestError, NotFoundError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FileDescription:
    """What a client says about a file. `seconds` after its creation it is deleted; None: it stays."""

    owner: str
    filename: str
    purpose: str
    seconds: int | None = None


class Upload:
    """A file that is being written. It exists for clients once it is committed, when all is known about it."""

    def __init__(self, store: "FileStore", file_id: str, limit: int | None) -> None:
        self._store, self._id, self._limit = store, file_id, limit
        self._bytes = 0
        self._content = DurableFile(store.path(file_id))

    def write(self, data: bytes) -> None:
        """Raises FileTooLargeError, InvalidRequestError if the quota is used up, and DiskFullError."""
        self._bytes += len(data)
        if self._limit is None:
            self._store.disk.count(self._id, self._bytes)
        elif self._bytes > self._limit:
            raise FileTooLargeError(self._limit)
        else:
            self._store.disk.resize(self._id, self._bytes)
        self._content.write(data)

    def commit(self, description: FileDescription) -> StoredFile:
        self._content.commit()
        now, seconds = int(time.time()), description.seconds
        record = StoredFile(
            id=self._id,
            owner=description.owner,
            filename=description.filename,
            purpose=description.purpose,
            bytes=self._bytes,
            created_at=now,
            expires_at=None if seconds is None else now + seconds,
        )
        self._store.add(record)
        return record

    def discard(self) -> None:
        """Forget what was written. A file that has a record, of this commit or an earlier one, stays."""
        self._content.discard()
        self._store.forget_unrecorded(self._id)


class FileStore:
    """All files of one directory. Its methods block and may be called in several threads.

    A file is there if its record is: the record is written after the content and deleted before it. Records are also
    held in memory, so lists and look-ups read no disk.
    """

    def __init__(self, disk: Disk, limits: BatchLimits) -> None:
        self.disk, self.limits = disk, limits
        self._directory = disk.directory / "files"
        self._directory.mkdir(exist_ok=True)
        self._lock = threading.Lock()
        self._records = self._read_records()
        self._delete_remnants()

    def path(self, file_id: str) -> Path:
        """Where the content of a file is."""
        return self._directory / f"{file_id}.jsonl"

    def begin(self) -> Upload:
        """Start a file of a client. Raises InvalidRequestError if there are too many files."""
        if len(self._records) >= self.limits.max_files:
            raise InvalidRequestError(
                f"This server keeps at most {self.limits.max_files} files: delete some that are not needed any more.",
                code="quota_exceeded",
            )
        return Upload(self, new_id("file-"), self.limits.max_file_bytes)

    def begin_output(self, file_id: str) -> Upload:
        """Start an output of a batch. Written again after a crash, it has the same id.

        The quota does not refuse it: the batch has taken this room before.
        """
        return Upload(self, file_id, None)

    def get(self, file_id: str, owner: str) -> StoredFile:
        """Raises NotFoundError for a file that does not exist, has expired or belongs to another key."""
        record = self._records.get(file_id)
        if record is None or record.owner != owner or record.has_expired:
            raise NotFoundError(f"There is no file '{file_id[:100]}'.")
        return record

    def list(self, owner: str) -> Sequence[StoredFile]:
        """The files of a key, newest first."""
        with self._lock:
            found = [record for record in self._records.values() if record.owner == owner and not record.has_expired]
        return sorted(found, key=lambda record: (record.created_at, record.id), reverse=True)

    def add(self, record: StoredFile) -> None:
        """The content is complete: from here on the file exists."""
        self.disk.write_json(self._record_path(record.id), asdict(record))
        with self._lock:
            self._records[record.id] = record

    def delete(self, file_id: str) -> None:
        with self._lock:
            self._records.pop(file_id, None)
        remove(self._record_path(file_id))
        remove(self.path(file_id))
        self.disk.forget(file_id)

    def forget_unrecorded(self, file_id: str) -> None:
        """Delete a content that got no record. Of one that has a record, count what is there."""
        if file_id in self._records:
            self.disk.count(file_id, self.path(file_id).stat().st_size)
        else:
            self.delete(file_id)

    def expired(self) -> Sequence[str]:
        with self._lock:
            return [record.id for record in self._records.values() if record.has_expired]

    def _record_path(self, file_id: str) -> Path:
        return self._directory / f"{file_id}.json"

    def _read_records(self) -> dict[str, StoredFile]:
        found = {}
        for path in self._directory.glob("*.json"):
            try:
                record = StoredFile(**json.loads(path.read_bytes()))
                self.disk.count(record.id, self.path(record.id).stat().st_size)
            except (OSError, ValueError, TypeError) as error:
                logger.error("the file %s cannot be used and is left where it is: %s", path, error)
                continue
            found[record.id] = record
        return found

    def _delete_remnants(self) -> None:
        """Delete what a crash has left of files that were being written or deleted."""
        for path in self._directory.iterdir():
            if path.suffix == ".part" or (path.suffix == ".jsonl" and not path.with_suffix(".json").exists()):
                path.unlink()
