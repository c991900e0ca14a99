"""The journal: each request has one result, durable; damage is noticed."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.batches.journal import Journal, JournalDamagedError, RequestPosition, Result
from server.batches.types import RequestCounts
from server.errors import DiskFullError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite3"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    journal = Journal(path)
    journal.add(RequestPosition(line, f"id-{line}", line * 10, 10) for line in range(1, 6))
    yield journal
    journal.close()


def result(line: int, output: bytes = b"{}\n", *, succeeded: bool = True) -> Result:
    return Result(line, succeeded, output)


def test_requests_are_open_until_they_have_a_result(journal: Journal) -> None:
    journal.record([result(2), result(4, succeeded=False)])
    assert [request.line for request in journal.open_requests(0, 10)] == [1, 3, 5]
    assert [request.line for request in journal.open_requests(1, 1)] == [3]
    assert journal.counts() == RequestCounts(5, 1, 1)


def test_the_first_result_stays(journal: Journal) -> None:
    journal.record([result(1, b"first\n")])
    journal.record([result(1, b"second\n", succeeded=False)])
    assert list(journal.results()) == [result(1, b"first\n")]


def test_results_are_durable_when_they_are_recorded(journal: Journal, path: Path, tmp_path: Path) -> None:
    """A copy of the files is what a crash would leave; the connection is never closed."""
    journal.record([result(3)])
    copies = tmp_path / "copies"
    copies.mkdir()
    for file in path.parent.glob("journal*"):
        (copies / file.name).write_bytes(file.read_bytes())
    copy = Journal(copies / path.name)
    assert list(copy.results()) == [result(3)]
    assert len(copy.open_requests(0, 10)) == 4
    copy.close()


def test_it_waits_for_the_disk(journal: Journal) -> None:
    assert journal._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert journal._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_a_full_disk(journal: Journal) -> None:
    journal.record([result(1)])
    pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
    journal._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(DiskFullError):
        journal.record([result(2, bytes(100_000))])
    assert journal.counts().completed == 1
    journal.record([result(3)])  # what has room is still taken


def test_a_changed_result_is_noticed(journal: Journal) -> None:
    journal.record([result(1, b"as it was\n"), result(2)])
    journal._db.execute("UPDATE requests SET result = ? WHERE line = 1", (b"otherwise\n",))
    with pytest.raises(JournalDamagedError, match="line 1"):
        list(journal.results())


def test_a_damaged_last_page_is_noticed(journal: Journal, path: Path) -> None:
    journal.record([result(line, bytes(3000)) for line in range(1, 6)])
    journal.close()
    content = bytearray(path.read_bytes())
    content[-4096:] = b"\xa5" * 4096
    path.write_bytes(content)
    with pytest.raises(JournalDamagedError):
        list(Journal(path).results())


def test_another_kind_of_file(path: Path) -> None:
    path.write_bytes(b"not a database, but long enough to be taken for one " * 100)
    with pytest.raises(JournalDamagedError, match="not a database"):
        Journal(path)


def test_a_file_that_cannot_be_used_now_is_not_damaged(path: Path) -> None:
    path.mkdir()
    with pytest.raises(OSError, match="unable to open database file"):
        Journal(path)


def test_mistakes_of_ours_are_not_damage(journal: Journal) -> None:
    journal.close()
    with pytest.raises(sqlite3.ProgrammingError):
        journal.counts()
