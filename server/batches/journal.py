"""The requests of one batch and their results, in an SQLite file that survives a crash at any moment.

Each batch has a file of its own, so that a damaged page harms one batch, and a finished one is deleted as a whole.
"""

import errno
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from server.batches.types import RequestCounts
from server.errors import DiskFullError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    line INTEGER PRIMARY KEY,          -- of the input file, from 1
    custom_id TEXT NOT NULL UNIQUE,
    offset INTEGER NOT NULL,           -- of the line's first byte
    size INTEGER NOT NULL,             -- bytes of the line
    succeeded INTEGER,                 -- NULL until there is a result
    result BLOB,                       -- the line of the output file
    checksum INTEGER                   -- CRC-32 of the result: SQLite has none of its own
);
CREATE INDEX IF NOT EXISTS open_requests ON requests (line) WHERE succeeded IS NULL;
"""
PAGE_BYTES = 4096
# Error codes of SQLite that say nothing about the content of the file: another program has it open, the process may
# open no more files, the disk cannot be written.
UNUSABLE = ("PERM", "BUSY", "LOCKED", "NOMEM", "READONLY", "IOERR", "CANTOPEN")


class JournalDamagedError(Exception):
    """The file is not what was written to it. The message says what is wrong."""


@dataclass(frozen=True, slots=True)
class RequestPosition:
    """Where a request stands in the input file."""

    line: int
    custom_id: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Result:
    """The output line of a request."""

    line: int
    succeeded: bool
    output: bytes


class Journal:
    """One connection. Its methods block; call one at a time, in any thread.

    Raises JournalDamagedError, DiskFullError, and OSError where the file cannot be used now. A transaction is durable
    when the method returns (WAL with synchronous=FULL); a result that is there already is not written again, so each
    request has exactly one.
    """

    def __init__(self, path: Path) -> None:
        import sqlite3  # here, because most servers have no batches

        self.path = path
        with _translated_errors():
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            try:
                self._open()
            except BaseException:
                self._db.close()
                raise

    def _open(self) -> None:
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")  # no shared memory beside the file; one server has it
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        problems = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if problems != "ok":
            raise JournalDamagedError(problems)
        self._db.executescript(_SCHEMA)

    @property
    def bytes(self) -> int:
        """What the file will take when the log beside it is merged into it."""
        return int(self._db.execute("PRAGMA page_count").fetchone()[0]) * PAGE_BYTES

    def clear(self) -> None:
        with _translated_errors():
            self._db.execute("DELETE FROM requests")

    def add(self, requests: Iterable[RequestPosition]) -> None:
        """Write down the requests of a batch, before any of them is answered."""
        rows = [(request.line, request.custom_id, request.offset, request.size) for request in requests]
        with self._transaction():
            self._db.executemany("INSERT INTO requests (line, custom_id, offset, size) VALUES (?, ?, ?, ?)", rows)

    def record(self, results: Sequence[Result]) -> None:
        """Write results in one transaction."""
        rows = [(result.succeeded, result.output, zlib.crc32(result.output), result.line) for result in results]
        with self._transaction():
            self._db.executemany(
                "UPDATE requests SET succeeded = ?, result = ?, checksum = ? WHERE line = ? AND succeeded IS NULL", rows
            )

    def open_requests(self, after: int, limit: int) -> list[RequestPosition]:
        """The next requests without a result."""
        with _translated_errors():
            rows = self._db.execute(
                "SELECT line, custom_id, offset, size FROM requests WHERE succeeded IS NULL AND line > ? "
                "ORDER BY line LIMIT ?",
                (after, limit),
            )
            return [RequestPosition(*row) for row in rows]

    def counts(self) -> RequestCounts:
        with _translated_errors():
            row = self._db.execute(
                "SELECT COUNT(*), COALESCE(SUM(succeeded), 0), COALESCE(SUM(NOT succeeded), 0) FROM requests"
            ).fetchone()
            return RequestCounts(*row)

    def results(self) -> Iterator[Result]:
        """All results, by line. Raises JournalDamagedError where a result is not what was recorded."""
        with _translated_errors():
            rows = self._db.execute(
                "SELECT line, succeeded, result, checksum FROM requests WHERE succeeded IS NOT NULL ORDER BY line"
            )
            for line, succeeded, output, checksum in rows:
                if zlib.crc32(output) != checksum:
                    raise JournalDamagedError(f"the result of line {line} has another checksum than was recorded")
                yield Result(line, bool(succeeded), output)

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _translated_errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


@contextmanager
def _translated_errors() -> Iterator[None]:
    """SQLite's errors as ours. Our own mistakes in SQL are not translated."""
    import sqlite3

    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise DiskFullError from error
        if error.sqlite_errorcode & 0xFF in [getattr(sqlite3, f"SQLITE_{name}") for name in UNUSABLE]:
            raise OSError(errno.EIO, str(error)) from error
        raise JournalDamagedError(f"{error} ({error.sqlite_errorname})") from error


def delete_journal(path: Path) -> None:
    """Delete a journal and the log beside it."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
