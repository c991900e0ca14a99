"""What `make` sets up: an environment that was left half made is made again."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.files import ROOT, program

# The first environment gets a python and no pip, and fails: so it is on Debian without python3-venv.
PYTHON = """#!/bin/sh
echo "$@" >> {calls}
[ "$1 $2" = "-m venv" ] || exit 0
mkdir -p .venv/bin && cp {python} .venv/bin/python
[ "$(grep -c 'm venv' {calls})" -gt 1 ]
"""


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """What the python in `tmp_path` was called with, a line each."""
    shutil.copyfile(ROOT / "Makefile", tmp_path / "Makefile")
    python, calls = tmp_path / "python", tmp_path / "calls"
    python.write_text(PYTHON.format(calls=calls, python=python))
    python.chmod(0o755)
    calls.touch()
    return calls


def make(directory: Path, target: str) -> subprocess.CompletedProcess[str]:
    command = [program("make", "GNU make"), f"PYTHON={directory / 'python'}", target]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(command, cwd=directory, env=clean, capture_output=True, text=True, check=False)


def test_a_half_made_environment_is_made_again(tmp_path: Path, calls: Path) -> None:
    assert make(tmp_path, ".venv/.torch").returncode != 0
    assert (tmp_path / ".venv/bin/python").exists()
    assert make(tmp_path, ".venv/.torch").returncode == 0
    assert calls.read_text().count("-m venv") == 2


def test_a_whole_one_is_left_alone(tmp_path: Path, calls: Path) -> None:
    for _ in range(2):
        make(tmp_path, ".venv/.torch")
    before = calls.read_text()
    assert make(tmp_path, ".venv/.torch").returncode == 0
    assert calls.read_text() == before


def test_the_long_download_is_shown(tmp_path: Path, calls: Path) -> None:
    for _ in range(2):
        make(tmp_path, ".venv/.torch")
    (line,) = [line for line in calls.read_text().splitlines() if "torch" in line]
    assert "quiet" not in line
