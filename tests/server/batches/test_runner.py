"""Batches from the input file to the output files: in order, exactly once, whatever happens in between."""

import asyncio
import bisect
import json
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from server.batches import disk, job, request_lines
from server.batches.executor import BatchResponse
from server.batches.files import FileStore
from server.batches.journal import Journal, RequestPosition
from server.batches.metrics import BatchCollector
from server.batches.request_lines import BatchRequest, InvalidLineError, parse_request
from server.batches.runner import BatchRunner
from server.batches.store import BatchStore
from server.batches.types import Batch, BatchStatus, RequestCounts
from server.errors import ConflictError, DiskFullError, InvalidRequestError, NotFoundError
from tests.server.batches.directories import (
    FakeExecutor,
    add_file,
    description,
    ids,
    line,
    lines,
    open_directory,
    output,
    run_to_the_end,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def running(
    path: Path, executor: FakeExecutor, max_num_seqs: int = 4, **limits: Any
) -> AsyncIterator[BatchRunner]:
    """A runner on a directory, as a server has it from start to drain."""
    with open_directory(path, **limits) as directory:
        runner = BatchRunner(directory, executor, max_num_seqs)
        runner.start()
        try:
            yield runner
        finally:
            await runner.close()


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


async def test_every_request_has_one_line_in_the_order_of_the_input(tmp_path: Path) -> None:
    executor = FakeExecutor(seconds=0.01, statuses={"r3": [400], "r7": [400]})
    async with running(tmp_path, executor) as runner:
        batch = await run_to_the_end(runner, lines(20))
        done, failed = output(runner.directory, batch.output_file_id), output(runner.directory, batch.error_file_id)
    assert batch.status is BatchStatus.COMPLETED
    assert batch.counts == RequestCounts(20, 18, 2)
    assert ids(done) == [f"r{number}" for number in range(20) if number not in (3, 7)]
    assert ids(failed) == ["r3", "r7"]
    assert done[0]["response"]["body"] == {"text": "r0"}
    assert failed[0]["response"]["status_code"] == 400
    assert list(batch.times) == ["in_progress_at", "finalizing_at", "completed_at"]
    assert 1 < executor.most_running <= 4
    assert set(executor.answered.values()) == {1}


async def test_nothing_is_left_of_the_journal(tmp_path: Path) -> None:
    async with running(tmp_path, FakeExecutor()) as runner:
        await run_to_the_end(runner, lines(3))
        assert not [path for path in (tmp_path / "batches").iterdir() if path.suffix != ".json"]


async def test_what_waiting_helps_is_tried_again(tmp_path: Path) -> None:
    executor = FakeExecutor(statuses={"r0": [429] * 5, "r1": [503] * 5, "r2": [500, 500], "r3": [500] * 9})
    async with running(tmp_path, executor) as runner:
        batch = await run_to_the_end(runner, lines(4))
        assert ids(output(runner.directory, batch.error_file_id)) == ["r3"]
    assert executor.answered == {"r0": 6, "r1": 6, "r2": 3, "r3": 3}


async def test_a_batch_goes_on_where_an_earlier_server_stopped(tmp_path: Path) -> None:
    slow, fast = FakeExecutor(seconds=0.01), FakeExecutor()
    async with running(tmp_path, slow) as runner:
        file_id = add_file(runner.directory, lines(60))
        batch = await runner.create(description(file_id))
        await until(lambda: runner.directory.batches.at(batch.id).counts.completed > 10)
    assert slow.running == 0  # aborted, not waited for
    async with running(tmp_path, fast) as runner:
        await runner.wait(batch.id)
        ended = runner.directory.batches.at(batch.id)
        done = output(runner.directory, ended.output_file_id)
    assert ended.counts == RequestCounts(60, 60, 0)
    assert ids(done) == [f"r{number}" for number in range(60)]
    assert 0 < fast.answered.total() < 50
    assert not slow.answered.keys() - fast.answered.keys() - set(ids(done))


@pytest.mark.parametrize("step", ["_validate", "_open_queue", "_finalize", "_end"])
async def test_a_batch_goes_on_after_each_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """The process ends before a step, and, in another life, after it."""
    real, executor = getattr(job.BatchJob, step), FakeExecutor()

    def before(*arguments: Any) -> Any:
        raise KeyError("the end")

    def after(*arguments: Any) -> Any:
        real(*arguments)
        raise KeyError("the end")

    batch_id = ""
    for fault in (before, after):
        monkeypatch.setattr(job.BatchJob, step, fault)
        async with running(tmp_path, executor) as runner:
            if not batch_id:
                batch_id = (await runner.create(description(add_file(runner.directory, lines(9))))).id
            await runner.wait(batch_id)
    monkeypatch.setattr(job.BatchJob, step, real)
    async with running(tmp_path, executor) as runner:
        await runner.wait(batch_id)
        batch = runner.directory.batches.at(batch_id)
        assert ids(output(runner.directory, batch.output_file_id)) == [f"r{number}" for number in range(9)]
    assert batch.counts == RequestCounts(9, 9, 0)
    assert set(executor.answered.values()) == {1}


async def test_cancelling_keeps_what_was_answered(tmp_path: Path) -> None:
    executor = FakeExecutor(seconds=0.01)
    async with running(tmp_path, executor) as runner:
        batch = await runner.create(description(add_file(runner.directory, lines(100))))
        await until(lambda: runner.directory.batches.at(batch.id).counts.completed >= 3)
        assert (await runner.cancel(batch.id, "")).status is BatchStatus.CANCELLING
        await runner.wait(batch.id)
        ended = runner.directory.batches.at(batch.id)
        done, rest = output(runner.directory, ended.output_file_id), output(runner.directory, ended.error_file_id)
        assert (await runner.cancel(batch.id, "")).status is BatchStatus.CANCELLED
    assert ended.status is BatchStatus.CANCELLED
    assert ended.counts == RequestCounts(100, len(done), len(rest))
    assert sorted(ids(done + rest)) == sorted(f"r{number}" for number in range(100))
    assert {one["error"]["code"] for one in rest} == {"batch_cancelled"}
    assert executor.running == 0


async def test_a_cancelled_batch_stays_cancelled_over_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path, FakeExecutor(free=False)) as runner:
        batch = await runner.create(description(add_file(runner.directory, lines(5))))
        runner.directory.batches.enter(batch.id, BatchStatus.CANCELLING)
    executor = FakeExecutor()
    async with running(tmp_path, executor) as runner:
        await runner.wait(batch.id)
        assert runner.directory.batches.at(batch.id).status is BatchStatus.CANCELLED
    assert not executor.answered


async def test_a_batch_that_is_cancelled_before_all_its_requests_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends while it reads the input."""
    real = Journal.add
    monkeypatch.setattr(job, "PAGE", 4)

    async with running(tmp_path, FakeExecutor()) as runner:

        def add(journal: Journal, requests: list[RequestPosition]) -> None:
            if journal.counts().total:
                [batch] = runner.directory.batches.unfinished()
                runner.directory.batches.enter(batch.id, BatchStatus.CANCELLING)
                raise KeyError("the end")
            real(journal, requests)

        monkeypatch.setattr(Journal, "add", add)
        batch = await run_to_the_end(runner, lines(9))
        assert batch.status is BatchStatus.CANCELLING
    monkeypatch.setattr(Journal, "add", real)
    async with running(tmp_path, FakeExecutor()) as runner:
        await runner.wait(batch.id)
        batch = runner.directory.batches.at(batch.id)
        rest = output(runner.directory, batch.error_file_id)
    assert batch.status is BatchStatus.CANCELLED
    assert ids(rest) == [f"r{number}" for number in range(9)]
    assert {one["error"]["code"] for one in rest} == {"batch_cancelled"}


async def test_a_finished_batch_cannot_be_cancelled(tmp_path: Path) -> None:
    async with running(tmp_path, FakeExecutor()) as runner:
        batch = await run_to_the_end(runner, lines(1))
        with pytest.raises(ConflictError, match="completed"):
            await runner.cancel(batch.id, "")


async def test_what_is_late_expires(tmp_path: Path) -> None:
    executor = FakeExecutor(seconds=0.05)
    async with running(tmp_path, executor, max_num_seqs=2) as runner:
        batch = await run_to_the_end(runner, lines(400), seconds=3)  # they would take ten
        done, rest = output(runner.directory, batch.output_file_id), output(runner.directory, batch.error_file_id)
    assert batch.status is BatchStatus.EXPIRED
    assert 0 < len(done) < 400
    assert len(done) + len(rest) == batch.counts.total == batch.counts.completed + batch.counts.failed == 400
    assert {one["error"]["code"] for one in rest} == {"batch_expired"}


async def test_a_batch_whose_requests_were_answered_in_time_is_completed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends while it writes the output files, and the next one starts when the time is over."""

    def write_output_files(*arguments: Any) -> Any:
        raise KeyError("the end")

    async with running(tmp_path, FakeExecutor()) as runner:
        with monkeypatch.context() as patch:
            patch.setattr(job, "write_output_files", write_output_files)
            batch = await run_to_the_end(runner, lines(3))
        assert batch.status is BatchStatus.FINALIZING
        runner.directory.batches._write(replace(batch, expires_at=batch.created_at))
    async with running(tmp_path, FakeExecutor()) as runner:
        await runner.wait(batch.id)
        batch = runner.directory.batches.at(batch.id)
        assert batch.status is BatchStatus.COMPLETED
        assert ids(output(runner.directory, batch.output_file_id)) == ["r0", "r1", "r2"]


async def test_a_batch_that_is_cancelled_while_it_expires_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its output files are being written when the client cancels it."""
    real = job.write_output_files
    async with running(tmp_path, FakeExecutor(free=False)) as runner:

        def write_output_files(journal: Journal, batch: Batch, files: FileStore) -> tuple[str | None, str | None]:
            runner.directory.batches.enter(batch.id, BatchStatus.CANCELLING)
            return real(journal, batch, files)

        monkeypatch.setattr(job, "write_output_files", write_output_files)
        batch = await run_to_the_end(runner, lines(3), seconds=1)
        assert [one["error"]["code"] for one in output(runner.directory, batch.error_file_id)] == ["batch_expired"] * 3
    assert batch.status is BatchStatus.EXPIRED
    assert "cancelling_at" in batch.times


async def test_requests_of_clients_come_first(tmp_path: Path) -> None:
    executor = FakeExecutor(free=False)
    async with running(tmp_path, executor) as runner:
        batch = await runner.create(description(add_file(runner.directory, lines(5))))
        await until(lambda: runner.directory.batches.at(batch.id).status is BatchStatus.IN_PROGRESS)
        await asyncio.sleep(0.1)
        assert not executor.answered
        executor.free = True
        await runner.wait(batch.id)
    assert executor.answered.total() == 5


async def test_batches_take_turns(tmp_path: Path) -> None:
    executor = FakeExecutor(seconds=0.02)
    async with running(tmp_path, executor, max_num_seqs=2) as runner:
        files = [add_file(runner.directory, lines(40, prefix)) for prefix in "ab"]
        batches = [await runner.create(description(file_id)) for file_id in files]
        for batch in batches:
            await runner.wait(batch.id)
    assert executor.most_running == 2
    last_of_a = max(place for place, name in enumerate(executor.order) if name.startswith("a"))
    assert last_of_a > 50  # one after the other it would be 39


async def test_a_request_is_read_when_its_turn_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of all batches together may be larger than the memory."""
    read: list[str] = []

    def read_request(path: Path, position: RequestPosition) -> BatchRequest:
        read.append(position.custom_id)
        return request_lines.read_request(path, position)

    monkeypatch.setattr(job, "read_request", read_request)
    executor = FakeExecutor(seconds=10)
    async with running(tmp_path, executor, max_num_seqs=2) as runner:
        file_id = add_file(runner.directory, lines(9))
        for _ in range(4):
            await runner.create(description(file_id))
        await until(lambda: all(batch.status == "in_progress" for batch in runner.directory.batches.all()))
        await until(lambda: executor.running == 2)
        await asyncio.sleep(0.05)
        assert len(read) == 2


async def test_batches_are_read_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsing their lines takes turns with the event loop, which each more would delay."""
    real, now, most = job.BatchJob._validate, 0, 0

    def validate(self: job.BatchJob, journal: Journal) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        real(self, journal)
        time.sleep(0.01)
        now -= 1

    monkeypatch.setattr(job.BatchJob, "_validate", validate)
    async with running(tmp_path, FakeExecutor()) as runner:
        file_id = add_file(runner.directory, lines(3))
        batches = [await runner.create(description(file_id)) for _ in range(5)]
        for batch in batches:
            await runner.wait(batch.id)
    assert most == 1


async def test_many_batches_of_one_key_do_not_delay_another(tmp_path: Path) -> None:
    executor = FakeExecutor(seconds=0.01)
    async with running(tmp_path, executor, max_num_seqs=2) as runner:
        for _ in range(8):
            flood = add_file(runner.directory, lines(20, "a"), owner="flood")
            await runner.create(description(flood, owner="flood"))
        other = add_file(runner.directory, lines(20, "b"), owner="other")
        batch = await runner.create(description(other, owner="other"))
        await runner.wait(batch.id)
    assert sum(name.startswith("b") for name in executor.order) == 20
    assert len(executor.order) < 80, "half of what is answered meanwhile; one of nine batches in turn would be 180"


WRONG = {
    "invalid_json_line": ["{", "[]", "1", "9" * 5000, '{"a":' * 100_000],
    "invalid_custom_id": [line(""), line("x" * 300), line("\ud800"), line("a").replace('"a"', "7", 1)],
    "invalid_method": [line("a", method="GET")],
    "invalid_url": [line("a", url="/v1/tokenize"), line("a", url=["x"])],
    "mismatched_url": [line("a", url="/v1/generate")],
    "invalid_body": [line("a", body=[])],
    "line_too_long": [line("a", "x" * 5000)],
}


@pytest.mark.parametrize(("code", "text"), [(code, text) for code, texts in WRONG.items() for text in texts])
async def test_a_wrong_line_is_named(tmp_path: Path, code: str, text: str) -> None:
    limit = 10**7 if code == "invalid_json_line" else 2000
    executor = FakeExecutor()
    async with running(tmp_path, executor, max_line_bytes=limit) as runner:
        batch = await run_to_the_end(runner, [line("good"), "", text])
    assert batch.status is BatchStatus.FAILED
    assert [(error.code, error.line) for error in batch.errors] == [(code, 3)]
    assert not executor.answered
    assert batch.output_file_id is batch.error_file_id is None


async def test_ids_are_unique_and_files_have_requests(tmp_path: Path) -> None:
    async with running(tmp_path, FakeExecutor(), max_requests=3) as runner:
        twice = await run_to_the_end(runner, [line("a"), line("b"), line("a")])
        empty = await run_to_the_end(runner, ["", "  "])
        many = await run_to_the_end(runner, lines(5))
        wrong = await run_to_the_end(runner, ["{"] * 500)
    assert [(error.code, error.line) for error in twice.errors] == [("duplicate_custom_id", 3)]
    assert [error.code for error in empty.errors] == ["empty_file"]
    assert [(error.code, error.line) for error in many.errors] == [("too_many_requests", 4), ("too_many_requests", 5)]
    assert len(wrong.errors) == 100


async def test_a_line_that_is_nested_too_deeply_is_wrong_or_answered(tmp_path: Path) -> None:
    """At the limit of recursion, which comes earlier where the stack is deeper, no batch stays unfinished."""

    class Answers(FakeExecutor):
        async def __call__(self, owner: str, url: str, body: bytes) -> BatchResponse:
            return BatchResponse(200, "id", b"{}")

    def nested(depth: int) -> str:
        return line("a", body={"x": 0}).replace("0", "[" * depth + "]" * depth)

    def is_too_deep(depth: int) -> bool:
        try:
            parse_request(nested(depth).encode())
        except InvalidLineError:
            return True
        return False

    limit = await asyncio.to_thread(bisect.bisect_left, range(100_000), True, key=is_too_deep)
    async with running(tmp_path, Answers()) as runner:
        statuses = [(await run_to_the_end(runner, [nested(depth)])).status for depth in range(limit - 30, limit + 1)]
    assert set(statuses) == {BatchStatus.COMPLETED, BatchStatus.FAILED}


async def test_streaming_is_off(tmp_path: Path) -> None:
    bodies: list[dict[str, Any]] = []

    class Recorder(FakeExecutor):
        async def __call__(self, owner: str, url: str, body: bytes) -> Any:
            bodies.append(json.loads(body))
            return await super().__call__(owner, url, body)

    body = {"prompt": "x", "stream": True, "stream_options": {"include_usage": True}}
    async with running(tmp_path, Recorder()) as runner:
        await run_to_the_end(runner, [line("a", body=body)])
    assert bodies == [{"prompt": "x", "stream": False}]


# What is stored is bounded


async def test_the_quota_ends_a_batch_with_the_reason(tmp_path: Path) -> None:
    long = [line(f"r{number}", "x" * 2000 + str(number)) for number in range(200)]
    async with running(tmp_path, FakeExecutor(), max_disk_bytes=900_000) as runner:
        batch = await run_to_the_end(runner, long)
        assert batch.status is BatchStatus.FAILED
        assert [error.code for error in batch.errors] == ["quota_exceeded"]
        assert runner.directory.disk.used <= 900_000
        done = output(runner.directory, batch.output_file_id)
        assert 0 < len(done) == batch.counts.completed < 200
        with pytest.raises(InvalidRequestError, match="900000 bytes"):
            add_file(runner.directory, long)
        runner.directory.delete_file(batch.input_file_id, "")
        add_file(runner.directory, long[:50])


async def test_unfinished_batches_are_bounded(tmp_path: Path) -> None:
    async with running(tmp_path, FakeExecutor(free=False), max_unfinished=2) as runner:
        file_id = add_file(runner.directory, lines(1))
        for _ in range(2):
            await runner.create(description(file_id))
        with pytest.raises(InvalidRequestError, match="up to 2 batches"):
            await runner.create(description(file_id))


async def test_the_oldest_finished_batch_makes_room(tmp_path: Path) -> None:
    async with running(tmp_path, FakeExecutor(), max_batches=2) as runner:
        batches = [await run_to_the_end(runner, lines(1)) for _ in range(3)]
        assert [batch.id for batch in runner.directory.batches.list("")] == [batches[2].id, batches[1].id]
    with open_directory(tmp_path) as directory:
        assert len(directory.batches.list("")) == 2


# Faults of the disk


async def test_a_full_disk_ends_a_batch_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, recorded = Journal.record, list[Any]()

    def record(self: Journal, results: Any) -> None:
        if len(recorded) >= 5:
            raise DiskFullError
        recorded.append(results)
        real(self, results)

    monkeypatch.setattr(Journal, "record", record)
    async with running(tmp_path, FakeExecutor(seconds=0.002)) as runner:
        batch = await run_to_the_end(runner, lines(100))
        done = output(runner.directory, batch.output_file_id)
    assert batch.status is BatchStatus.FAILED
    assert [error.code for error in batch.errors] == ["disk_full"]
    assert len(done) == batch.counts.completed == sum(map(len, recorded))
    with open_directory(tmp_path) as directory:  # also after a restart
        assert directory.batches.at(batch.id).status is BatchStatus.FAILED


async def test_what_is_answered_outlives_a_disk_without_room_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal stays until its results are in an output file, also where it cannot even be opened."""
    slow, fast = FakeExecutor(seconds=0.002), FakeExecutor()

    def full(*_: Any) -> None:
        raise DiskFullError

    async def failed(runner: BatchRunner) -> None:
        await runner.wait(batch.id)
        shown = runner.directory.batches.at(batch.id)
        assert shown.status is BatchStatus.FAILED
        assert [error.code for error in shown.errors] == ["disk_full"]
        assert runner.directory.batches.goes_on(batch.id)

    async with running(tmp_path, slow) as runner:
        batch = await runner.create(description(add_file(runner.directory, lines(60))))
        await until(lambda: runner.directory.batches.at(batch.id).counts.completed > 10)
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "record", full)
            patch.setattr(FileStore, "begin_output", full)
            await failed(runner)
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_open", full)
        async with running(tmp_path, fast) as runner:
            await failed(runner)
    async with running(tmp_path, fast) as runner:
        await runner.wait(batch.id)
        ended = runner.directory.batches.at(batch.id)
        assert ids(output(runner.directory, ended.output_file_id)) == [f"r{number}" for number in range(60)]
        assert not runner.directory.batches.goes_on(batch.id)
    assert ended.status is BatchStatus.COMPLETED
    assert ended.errors == ()
    assert fast.answered.total() < 50


async def test_a_batch_whose_last_record_cannot_be_written_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = BatchStore.enter

    def enter(self: BatchStore, batch_id: str, status: BatchStatus, **changes: Any) -> Batch:
        if status.is_final:
            raise DiskFullError
        return real(self, batch_id, status, **changes)

    executor = FakeExecutor()
    async with running(tmp_path, executor) as runner:
        with monkeypatch.context() as patch:
            patch.setattr(BatchStore, "enter", enter)
            batch = await run_to_the_end(runner, lines(3))
        assert [error.code for error in batch.errors] == ["disk_full"]
    async with running(tmp_path, executor) as runner:
        await runner.wait(batch.id)
        assert runner.directory.batches.at(batch.id).status is BatchStatus.COMPLETED
    assert executor.answered.total() == 3


async def test_a_disk_without_room_for_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reserve makes room. Where even that is gone, the state is clear until a restart tries again."""
    real = disk.DurableFile.write

    def write(self: disk.DurableFile, data: bytes) -> None:
        if (tmp_path / "reserve").exists() or not has_reserve:
            raise DiskFullError
        real(self, data)

    for has_reserve in (True, False):
        async with running(tmp_path, FakeExecutor(free=False)) as runner:
            batch = await runner.create(description(add_file(runner.directory, ["{"])))
            await runner.wait(batch.id)
            batch = await runner.create(description(add_file(runner.directory, lines(3))))
            await until(lambda: runner.directory.batches.at(batch.id).status is BatchStatus.IN_PROGRESS)  # noqa: B023
            with monkeypatch.context() as patch:
                patch.setattr(disk.DurableFile, "write", write)
                runner._executor.free = True  # type: ignore[attr-defined]
                await runner.wait(batch.id)
                ended = runner.directory.batches.at(batch.id)
                assert ended.status is BatchStatus.FAILED or has_reserve
    async with running(tmp_path, FakeExecutor()) as runner:
        await runner.wait(batch.id)
        assert runner.directory.batches.at(batch.id).status is BatchStatus.COMPLETED


@pytest.mark.parametrize("damage", ["last page", "header", "lost log"])
async def test_a_damaged_journal_ends_its_batch_alone(tmp_path: Path, damage: str) -> None:
    executor = FakeExecutor(seconds=0.005)
    async with running(tmp_path, executor) as runner:
        files = [add_file(runner.directory, lines(200, prefix)) for prefix in "ab"]
        broken, whole = [await runner.create(description(file_id)) for file_id in files]
        await until(lambda: runner.directory.batches.at(broken.id).counts.completed > 20)
    path = tmp_path / "batches" / f"{broken.id}.sqlite3"
    content = bytearray(path.read_bytes())
    if damage == "last page":
        content[-4096:] = b"\xa5" * 4096
    elif damage == "header":
        content[:100] = bytes(range(100))
    else:
        content = bytearray()
    path.write_bytes(content)
    async with running(tmp_path, FakeExecutor()) as runner:
        for batch in (broken, whole):
            await runner.wait(batch.id)
        ended = runner.directory.batches.at(broken.id)
        assert ended.status is BatchStatus.FAILED
        assert [error.code for error in ended.errors] == ["journal_damaged"]
        assert runner.counts.failed == {"journal_damaged": 1}
        assert runner.directory.batches.at(whole.id).counts == RequestCounts(200, 200, 0)
        again = await runner.create(description(broken.input_file_id))  # its input is still there
        await runner.wait(again.id)
        assert runner.directory.batches.at(again.id).counts.completed == 200


async def test_a_journal_that_another_program_has_open_keeps_its_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, timeout=0))
    executor = FakeExecutor(seconds=0.01)
    async with running(tmp_path, executor) as runner:
        batch = await runner.create(description(add_file(runner.directory, lines(30))))
        await until(lambda: runner.directory.batches.at(batch.id).counts.completed > 5)
        journal = runner.directory.batches.journal_path(batch.id)
    answered = executor.answered.copy()
    with closing(sqlite3.connect(journal)) as other:
        other.execute("BEGIN EXCLUSIVE")
        async with running(tmp_path, executor) as runner:
            await runner.wait(batch.id)
            batch = runner.directory.batches.at(batch.id)
    assert batch.status is BatchStatus.FAILED
    assert [error.code for error in batch.errors] == ["io_error"]
    async with running(tmp_path, executor) as runner:
        await runner.wait(batch.id)
        batch = runner.directory.batches.at(batch.id)
    assert batch.counts == RequestCounts(30, 30, 0)
    assert executor.answered.total() < 30 + answered.total()  # those that were recorded are not answered again


async def test_a_changed_input_file_is_noticed(tmp_path: Path) -> None:
    async with running(tmp_path, FakeExecutor(free=False)) as runner:
        batch = await runner.create(description(add_file(runner.directory, lines(10))))
        await until(lambda: runner.directory.batches.at(batch.id).status is BatchStatus.IN_PROGRESS)
        path = runner.directory.files.path(batch.input_file_id)
    path.write_bytes(path.read_bytes().replace(b"r3", b"r4"))
    async with running(tmp_path, FakeExecutor()) as runner:
        await runner.wait(batch.id)
        (error,) = runner.directory.batches.at(batch.id).errors
    assert error.code == "journal_damaged"
    assert "line 4" in error.message


async def test_a_missing_input_file_is_told_without_its_path(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(tmp_path, FakeExecutor()) as runner:
        with pytest.raises(NotFoundError):
            await runner.create(description("file-x"))
        file_id = add_file(runner.directory, lines(1))
        runner.directory.files.path(file_id).unlink()
        batch = await runner.create(description(file_id))
        await runner.wait(batch.id)
        (error,) = runner.directory.batches.at(batch.id).errors
    assert error.code == "io_error"
    assert "No such file" in error.message
    assert str(tmp_path) not in error.message
    assert str(tmp_path) in caplog.text


async def test_failures_are_counted_by_a_bounded_set_of_reasons(tmp_path: Path) -> None:
    registry, name = CollectorRegistry(), "routelm:batch_failures_total"
    async with running(tmp_path, FakeExecutor()) as runner:
        registry.register(BatchCollector(runner))
        assert registry.get_sample_value(name, {"reason": "invalid_input"}) == 0
        batch = await runner.create(description(add_file(runner.directory, ["{", "["])))
        await runner.wait(batch.id)
        assert registry.get_sample_value(name, {"reason": "invalid_input"}) == 1
        runner.counts.failed["something new"] += 1
        assert registry.get_sample_value(name, {"reason": "server_error"}) == 1
        assert registry.get_sample_value(name, {"reason": "something new"}) is None
