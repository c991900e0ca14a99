"""The table of servers whose processors others use, and the processes and groups that a situation leaves behind."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from benchmarks import shared_cores
from benchmarks.shared_cores import Throttling, busy, medians, quota, remove, rows_of

ONE, EIGHT = "1 streams, output tokens/s", "8 streams, output tokens/s"


def turns(rate: float) -> list[dict[str, float]]:
    return [{ONE: rate + number, EIGHT: 4 * rate} for number in (2, 0, 1)]


def test_rates_are_also_given_as_a_share_of_the_quiet_ones() -> None:
    figures: dict[str, Any] = {
        "medians": medians({"ours": {"quiet": turns(39), "busy": turns(29), "quota": turns(19)}})
    }
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in rows_of(figures).splitlines()]
    assert rows[0] == ["", ONE, EIGHT]
    assert rows[2:] == [
        ["ours, quiet", "40 (1.00)", "156 (1.00)"],
        ["ours, busy", "30 (0.75)", "116 (0.74)"],
        ["ours, quota", "20 (0.50)", "76 (0.49)"],
    ]


def test_the_other_process_ends_with_the_situation(monkeypatch: pytest.MonkeyPatch) -> None:
    others: list[subprocess.Popen[bytes]] = []

    def start(command: list[str]) -> subprocess.Popen[bytes]:
        others.append(popen(command))
        return others[-1]

    popen = subprocess.Popen
    monkeypatch.setattr(shared_cores.subprocess, "Popen", start)
    with busy("serve") as command:
        (other,) = others
        assert command == "serve"
        assert other.poll() is None
        assert os.sched_getaffinity(other.pid) == {min(os.sched_getaffinity(0))}
    assert other.returncode is not None


def test_a_server_joins_a_group_with_a_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_cores, "CPU_CONTROLLER", tmp_path)
    monkeypatch.setattr(Path, "rmdir", lambda path: None)  # the kernel's groups are empty to rmdir, a folder is not
    with quota("exec true") as command:
        (group,) = tmp_path.iterdir()
        files = {path.name: path.read_text(encoding="ascii") for path in group.iterdir()}
        assert files == {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "100000"}
        process = subprocess.run(["sh", "-c", command], check=True, stdout=subprocess.PIPE)
        assert process.returncode == 0
        assert int((group / "cgroup.procs").read_text(encoding="ascii")) > 0
        (group / "cpu.stat").write_text("nr_periods 50\nnr_throttled 7\nthrottled_time 250000000\n", encoding="ascii")
        assert Throttling.read().since(Throttling(10, 2, 0.1)) == {"periods": 40, "throttled": 5, "throttled, s": 0.15}


@pytest.mark.skipif(sys.platform != "linux", reason="cgroups are Linux's")
def test_a_missing_group_is_no_throttling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: figures do not come from nowhere."""
    monkeypatch.setattr(shared_cores, "CPU_CONTROLLER", tmp_path)
    with pytest.raises(FileNotFoundError):
        Throttling.read()


def test_a_group_is_removed_once_its_last_process_has_ended(tmp_path: Path) -> None:
    group, process = tmp_path / "group", tmp_path / "group" / "process"
    group.mkdir()
    process.touch()
    ends = threading.Timer(0.05, process.unlink)
    ends.start()
    remove(group)
    ends.join()
    assert not group.exists()


def test_a_group_that_stays_in_use_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "process").touch()
    with pytest.raises(OSError, match="not empty"):
        remove(tmp_path, patience=0.01)
