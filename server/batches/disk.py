"""Files that a crash leaves whole or not at all, and a bound on the bytes of all of them."""

import errno
import json
import os
import shutil
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from server.errors import DiskFullError, InvalidRequestError

RESERVE_BYTES = 2**18
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class DurableFile:
    """A file that appears at `path` when it is committed, and then survives a crash.

    As a context manager it commits when the block ends and discards when it raises. Raises DiskFullError where the
    file system has no room.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(f"{path.name}.part")
        try:
            self._file = self._part.open("wb")
        except OSError as error:
            raise as_disk_full(error) from error

    def write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise as_disk_full(error) from error

    def commit(self) -> None:
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._part.replace(self._path)
            sync_directory(self._path.parent)
        except OSError as error:
            self.discard()
            raise as_disk_full(error) from error

    def discard(self) -> None:
        with suppress(OSError):  # closing writes what is buffered, for which there may be no room
            self._file.close()
        self._part.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self.commit()
        else:
            self.discard()


class Disk:
    """Everything below one directory. Its methods block and may be called in several threads.

    The bytes of each file and journal are counted by a name; together they have at most `max_bytes`. A reserve is
    allocated at the start and given up when the file system is full, so that the reason can be written.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self.directory = directory
        self.max_bytes = max_bytes
        self._sizes: dict[str, int] = {}
        self._lock = threading.Lock()
        self._reserve = directory / "reserve"
        self._allocate_reserve()

    @property
    def used(self) -> int:
        """Bytes, without the records."""
        with self._lock:
            return sum(self._sizes.values())

    def resize(self, name: str, size: int) -> None:
        """Count `size` bytes for `name` from now on. Raises InvalidRequestError if that is more than may be stored."""
        with self._lock:
            before = self._sizes.get(name, 0)
            if size > before and sum(self._sizes.values()) - before + size > self.max_bytes:
                raise InvalidRequestError(
                    f"The files and batches on this server may take {self.max_bytes} bytes together, and they do: "
                    "delete files that are not needed any more.",
                    code="quota_exceeded",
                )
            self._sizes[name] = size

    def count(self, name: str, size: int) -> None:
        """Count what is there already, whatever the limit."""
        with self._lock:
            self._sizes[name] = size

    def forget(self, name: str) -> None:
        with self._lock:
            self._sizes.pop(name, None)

    def write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        """Replace the file at `path`. If there is no room, the reserve is given up."""
        try:
            _write_json(path, value)
        except DiskFullError:
            self._reserve.unlink(missing_ok=True)
            _write_json(path, value)

    def _allocate_reserve(self) -> None:
        with suppress(OSError):
            if shutil.disk_usage(self.directory).free > 4 * RESERVE_BYTES:
                self._reserve.write_bytes(bytes(RESERVE_BYTES))


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    with DurableFile(path) as file:
        file.write(json.dumps(value).encode())


def as_disk_full(error: OSError) -> Exception:
    """DiskFullError for what a full file system raises, else the error itself."""
    return DiskFullError() if error.errno in NO_ROOM else error


def remove(path: Path) -> None:
    """Delete a file if it is there, durably."""
    path.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make renames and deletions in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
