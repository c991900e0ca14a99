"""The directory that has the files and batches of one server."""

import fcntl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

from server.batches.disk import Disk
from server.batches.files import FileStore
from server.batches.store import BatchDescription, BatchStore
from server.batches.threads import DiskThreads
from server.batches.types import Batch, BatchLimits
from server.settings import Settings


class BatchDirectory:
    """Files and batches below one directory, which this process alone uses until it is closed.

    Raises OSError if the directory cannot be written, and ValueError if another process uses it.
    """

    def __init__(self, directory: Path, limits: BatchLimits) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)  # prompts are in it
        self._lock = _locked(directory / "lock")
        self._files_in_use = threading.Lock()  # held while batches are created and files deleted
        self.limits = limits
        self.disk = Disk(directory, limits.max_disk_bytes)
        self.files = FileStore(self.disk, limits)
        self.batches = BatchStore(self.disk, limits)
        self.threads = DiskThreads()

    def create_batch(self, description: BatchDescription) -> Batch:
        """Raises NotFoundError for its file, and InvalidRequestError if there are too many unfinished batches."""
        with self._files_in_use:
            self.files.get(description.input_file_id, description.owner)
            return self.batches.create(description)

    def delete_file(self, file_id: str, owner: str) -> None:
        """Raises NotFoundError, and ConflictError if an unfinished batch reads the file."""
        with self._files_in_use:
            self.files.get(file_id, owner)
            self.batches.check_unused(file_id)
            self.files.delete(file_id)

    def delete_expired(self) -> None:
        """Delete the files whose time is over and that no batch reads."""
        with self._files_in_use:
            read = {batch.input_file_id for batch in self.batches.unfinished()}
            for file_id in self.files.expired():
                if file_id not in read:
                    self.files.delete(file_id)

    def close(self) -> None:
        """Wait for the threads, then let other processes use the directory."""
        self.threads.close()
        self._lock.close()


@contextmanager
def open_batch_directory(settings: Settings) -> Iterator[BatchDirectory | None]:
    """Yield the directory that the settings name, if any, while this process uses it. Raises OSError and ValueError."""
    if settings.batch_dir is None:
        yield None
        return
    limits = BatchLimits(
        max_file_bytes=settings.batch_file_bytes,
        max_disk_bytes=settings.batch_disk_bytes,
        max_line_bytes=settings.max_body_bytes,
    )
    with closing(BatchDirectory(settings.batch_dir, limits)) as directory:
        yield directory


def _locked(path: Path) -> IO[bytes]:
    """Lock a file for as long as the process lives or until it is closed."""
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ValueError(f"another server uses the batch directory {path.parent}: give each its own") from None
    return file
