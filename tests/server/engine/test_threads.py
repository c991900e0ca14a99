"""The number of threads follows the time that the processors have."""

from pathlib import Path

import pytest

from server.engine import threads
from server.engine.threads import CpuTimes, ThreadScaler, threads_for

START = CpuTimes(0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("own", "idle", "expected"),
    [
        (2.0, 0.0, 2),  # both threads run all the time
        (1.0, 1.0, 2),  # one thread runs, and the other processor is idle
        (0.1, 1.9, 2),  # little to do
        (1.7, 0.0, 2),  # a client on the same machine
        (1.5, 0.0, 1),  # another process has half of one processor: its fair share
        (1.0, 0.0, 1),  # one thread runs, and another process has the other processor
        (0.2, 0.0, 1),  # everything is taken
    ],
)
def test_threads_for_the_time_there_was(own: float, idle: float, expected: int) -> None:
    assert threads_for(START, CpuTimes(1.0, own, idle), 2) == expected


def test_many_processors_lose_only_what_others_take() -> None:
    assert threads_for(START, CpuTimes(2.0, 25.0, 1.0), 16) == 13
    assert threads_for(START, CpuTimes(1.0, 16.0, 40.0), 16) == 16


def test_the_scaler_follows_and_returns() -> None:
    clock = [CpuTimes(wall, own, 0.0) for wall, own in ((0, 0), (1, 2), (2, 3), (3, 4), (4, 6))]
    found: list[int] = []
    scaler = ThreadScaler(2, read=lambda: clock.pop(0), set_threads=found.append)
    changed = [scaler.update() for _ in range(5)]
    assert (found, changed) == ([1, 2], [False, False, True, False, True])


def test_at_the_end_nothing_helps() -> None:
    times = [CpuTimes(0.0, 0.0, 0.0), CpuTimes(1.0, 1.0, 0.0)]
    found: list[int] = []
    scaler = ThreadScaler(2, read=lambda: times.pop(0), set_threads=found.append)
    for _ in range(2):
        scaler.update()
    scaler.close()
    assert found == [1, 2]


def test_one_thread_measures_nothing() -> None:
    scaler = ThreadScaler(1, read=lambda: pytest.fail("measured"), set_threads=lambda _: pytest.fail("changed"))
    assert not scaler.update()


def test_measurements_have_a_distance() -> None:
    times = [CpuTimes.read()]
    scaler = ThreadScaler(2, read=times.pop, set_threads=lambda _: None)
    assert not any(scaler.update() for _ in range(100))  # a second measurement would find no times


def test_without_proc_nothing_changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(threads, "PROC_STAT", tmp_path / "stat")
    assert not ThreadScaler(2, set_threads=lambda _: pytest.fail("changed")).update()


def test_times_are_those_of_the_processors_allowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  9 9 9 900 9 0 0\ncpu0 1 1 1 300 50 0 0\ncpu1 1 1 1 500 0 0 0\nintr 5\n")
    monkeypatch.setattr(threads, "PROC_STAT", stat)
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(threads.os, "sysconf", lambda _: 100)
    assert CpuTimes.read().idle == 3.5


@pytest.mark.parametrize(("num_threads", "max_threads", "helped"), [(1, 2, True), (2, 2, False), (1, 1, False)])
def test_a_single_thread_is_helped_where_there_are_more_processors(
    monkeypatch: pytest.MonkeyPatch, num_threads: int, max_threads: int, helped: bool
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(threads, "start_helper", lambda: calls.append("start"))
    monkeypatch.setattr(threads, "stop_helper", lambda: calls.append("stop"))
    monkeypatch.setattr(threads.torch, "set_num_threads", lambda count: calls.append(str(count)))
    threads.use_threads(num_threads, max_threads)
    assert calls == [str(num_threads), "start" if helped else "stop"]
