"""The directory: one server at a time, files that are whole or not there, records that do not disappear."""

import json
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import pytest

from server.batches.files import FileDescription
from server.batches.store import BatchDescription
from server.batches.types import Batch, BatchStatus
from server.errors import ConflictError, DiskFullError, FileTooLargeError, InvalidRequestError, NotFoundError
from tests.server.batches.directories import add_file, description, lines, open_directory

NOTE = FileDescription("", "in.jsonl", "batch")


def test_one_server_at_a_time(tmp_path: Path) -> None:
    with open_directory(tmp_path), pytest.raises(ValueError, match="another server"):
        open_directory(tmp_path)
    with open_directory(tmp_path):
        pass


def test_others_cannot_read_the_prompts(tmp_path: Path) -> None:
    with open_directory(tmp_path / "new" / "directory"):
        assert (tmp_path / "new" / "directory").stat().st_mode & 0o77 == 0


def test_a_file_is_there_when_it_is_committed(tmp_path: Path) -> None:
    with open_directory(tmp_path) as directory:
        upload = directory.files.begin()
        upload.write(b"abc")
        assert directory.files.list("") == []
        record = upload.commit(NOTE)
        assert directory.files.list("") == [record]
        assert directory.files.path(record.id).read_bytes() == b"abc"
        crashed = directory.files.begin()
        crashed.write(b"a crash comes before the end")
        crashed._content._file.close()
    with open_directory(tmp_path) as directory:
        assert directory.files.list("") == [record]
        assert directory.disk.used == 3
        assert len(list((tmp_path / "files").iterdir())) == 2
        directory.delete_file(record.id, "")
        assert list((tmp_path / "files").iterdir()) == []
        assert directory.disk.used == 0


def test_files_are_bounded(tmp_path: Path) -> None:
    with open_directory(tmp_path, max_file_bytes=10, max_disk_bytes=15, max_files=2) as directory:
        upload = directory.files.begin()
        upload.write(bytes(10))
        with pytest.raises(FileTooLargeError, match="10 bytes"):
            upload.write(b"x")
        upload.discard()
        assert directory.disk.used == 0
        for size in (10, 5):
            upload = directory.files.begin()
            upload.write(bytes(size))
            upload.commit(NOTE)
        with pytest.raises(InvalidRequestError, match="at most 2 files"):
            directory.files.begin()


def test_a_file_belongs_to_its_key(tmp_path: Path) -> None:
    with open_directory(tmp_path) as directory:
        file_id = add_file(directory, lines(1), owner="ann")
        assert [record.id for record in directory.files.list("ann")] == [file_id]
        assert directory.files.list("bob") == []
        with pytest.raises(NotFoundError):
            directory.delete_file(file_id, "bob")


def test_a_file_in_use_stays(tmp_path: Path) -> None:
    with open_directory(tmp_path) as directory:
        file_id = add_file(directory, lines(1))
        batch = directory.batches.create(description(file_id))
        with pytest.raises(ConflictError, match=batch.id):
            directory.delete_file(file_id, "")
        directory.batches.enter(batch.id, BatchStatus.FAILED)
        directory.delete_file(file_id, "")


def test_a_file_is_not_deleted_while_a_batch_of_it_is_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_directory(tmp_path) as directory, ThreadPoolExecutor() as threads:
        file_id, create = add_file(directory, lines(1)), directory.batches.create
        deletions: list[Future[None]] = []

        def slowly(description: BatchDescription) -> Batch:
            deletions.append(threads.submit(directory.delete_file, file_id, ""))
            wait(deletions, 0.1)
            return create(description)

        monkeypatch.setattr(directory.batches, "create", slowly)
        directory.create_batch(description(file_id))
        with pytest.raises(ConflictError, match="reads this file"):
            deletions[0].result()
        assert directory.files.path(file_id).exists()


def test_expired_files_are_deleted(tmp_path: Path) -> None:
    with open_directory(tmp_path) as directory:
        upload = directory.files.begin()
        old = upload.commit(replace(NOTE, seconds=-1))
        used = directory.files.begin().commit(replace(NOTE, seconds=-1))
        directory.batches.create(description(used.id))
        kept = directory.files.begin().commit(replace(NOTE, seconds=1000))
        assert directory.files.list("") == [kept]
        with pytest.raises(NotFoundError):
            directory.files.get(old.id, "")
        directory.delete_expired()
        assert {path.stem for path in (tmp_path / "files").iterdir()} == {used.id, kept.id}


def test_a_status_is_only_followed_by_what_can_follow(tmp_path: Path) -> None:
    with open_directory(tmp_path) as directory:
        batch = directory.batches.create(description("file-x"))
        for status in (BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED):
            assert directory.batches.enter(batch.id, status).status is BatchStatus.VALIDATING
        directory.batches.enter(batch.id, BatchStatus.IN_PROGRESS)
        directory.batches.enter(batch.id, BatchStatus.CANCELLING)
        assert directory.batches.enter(batch.id, BatchStatus.FINALIZING).status is BatchStatus.CANCELLING
        directory.batches.enter(batch.id, BatchStatus.CANCELLED)
        assert directory.batches.enter(batch.id, BatchStatus.FAILED).status is BatchStatus.CANCELLED


def test_a_record_that_cannot_be_read_does_not_disappear(tmp_path: Path) -> None:
    with open_directory(tmp_path) as directory:
        batches = [directory.batches.create(description("file-x")) for _ in range(3)]
    for batch, content in zip(batches, ('{"id": "x"', "[]", json.dumps({"status": "odd"})), strict=True):
        (tmp_path / "batches" / f"{batch.id}.json").write_text(content)
    with open_directory(tmp_path) as directory:
        for batch in batches:
            found = directory.batches.at(batch.id)
            assert found.status is BatchStatus.FAILED
            assert [error.code for error in found.errors] == ["record_damaged"]


def test_a_file_whose_record_cannot_be_read_is_left_alone(tmp_path: Path) -> None:
    with open_directory(tmp_path) as directory:
        file_id = add_file(directory, lines(1))
    (tmp_path / "files" / f"{file_id}.json").write_text("{")
    with open_directory(tmp_path) as directory:
        assert directory.files.list("") == []
        assert directory.files.path(file_id).exists()


def test_a_full_file_system(tmp_path: Path) -> None:
    """/dev/full has no room, ever."""
    with open_directory(tmp_path) as directory:
        upload = directory.files.begin()
        upload._content._file.close()
        upload._content._file = Path("/dev/full").open("wb", buffering=0)  # type: ignore[assignment]  # noqa: SIM115
        with pytest.raises(DiskFullError):
            upload.write(bytes(10**6))
        upload.discard()
        assert directory.files.list("") == []


def test_an_upload_without_a_record_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk has room for the content and none for the record."""

    def full(*_: object) -> None:
        raise DiskFullError

    with open_directory(tmp_path) as directory:
        add_file(directory, lines(1))
        before = directory.disk.used, set((tmp_path / "files").iterdir())
        monkeypatch.setattr(directory.disk, "write_json", full)
        upload = directory.files.begin()
        upload.write(b"abc")
        with pytest.raises(DiskFullError):
            upload.commit(NOTE)
        upload.discard()
        assert (directory.disk.used, set((tmp_path / "files").iterdir())) == before


def test_an_output_that_cannot_be_written_again_stays(tmp_path: Path) -> None:
    with open_directory(tmp_path) as directory:
        first = directory.files.begin_output("file-x-output")
        first.write(b"abc")
        record = first.commit(NOTE)
        again = directory.files.begin_output("file-x-output")
        again.write(b"a")
        again.discard()
        assert directory.files.path(record.id).read_bytes() == b"abc"
        assert directory.files.list("") == [record]
        assert directory.disk.used == 3
