"""One Dockerfile for linux/amd64 and linux/arm64: no step names an architecture, and both install the same packages."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from .files import DEPLOY
from .image import DOCKERFILE

LOCK_FILE = DEPLOY / "docker/requirements.lock"
ARCHITECTURE = re.compile(r"x86|amd64|arm64|aarch64|i[3-6]86|march|--platform", re.IGNORECASE)
MACHINES = ["x86_64", "aarch64"]
GLIBC = 36  # 2.36, of Debian bookworm


@pytest.mark.parametrize("path", [DOCKERFILE, DEPLOY / "docker/build.sh"], ids=lambda path: path.name)
def test_no_step_of_the_build_names_an_architecture(path: Path) -> None:
    assert ARCHITECTURE.findall(path.read_text()) == []


@pytest.mark.parametrize("line", ["FROM --platform=linux/amd64 python AS builder", "CXXFLAGS=-march=x86-64-v3"])
def test_an_architecture_would_be_found(line: str) -> None:
    assert ARCHITECTURE.search(line)


def installed(lock: str, machine: str) -> set[str]:
    """The names and versions of a lock file that pip installs on Linux on such a machine."""
    lines = [line.split(" --hash")[0] for line in lock.replace("\\\n", "").splitlines()]
    environment = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": machine}
    found = [Requirement(line) for line in lines]
    return {f"{r.name}{r.specifier}" for r in found if r.marker is None or r.marker.evaluate(environment)}


def test_both_architectures_install_the_same_packages() -> None:
    lock = LOCK_FILE.read_text()
    assert len(installed(lock, "aarch64")) > 30
    assert installed(lock, "aarch64") == installed(lock, "x86_64")


def test_a_package_for_one_architecture_would_be_found() -> None:
    lock = "a==1 \\\n    --hash=sha256:00\nb==2 ; platform_machine == 'x86_64' \\\n    --hash=sha256:00\n"
    assert [sorted(installed(lock, machine)) for machine in MACHINES] == [["a==1", "b==2"], ["a==1"]]


def pip(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pip", *words]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def unreachable_index(**environment: str) -> str | None:
    """What pip says where it finds no package at all, not even itself; None where it can reach a package index."""
    done = pip("index", "versions", "pip", "--retries", "0", "--timeout", "10", **environment)
    return None if done.returncode == 0 else (done.stderr.strip() or "nothing").splitlines()[-1]


@pytest.fixture(scope="module")
def package_index() -> None:
    """Skips the test where no package index can be reached."""
    if (reason := unreachable_index()) is not None:
        pytest.skip(f"no package index can be reached: {reason}")


def test_an_index_that_cannot_be_reached_is_noticed() -> None:
    nowhere = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_EXTRA_INDEX_URL": ""}
    assert unreachable_index(**nowhere) is not None


def wheels_for(machine: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Asks the package index for wheels of all locked packages for the image's Python, each with a locked hash."""
    python = re.findall(r"^ARG PYTHON_VERSION=(.+)$", DOCKERFILE.read_text(), re.MULTILINE)[0]
    versions = ["2014", *(f"_2_{minor}" for minor in range(17, GLIBC + 1))]
    target = [f"--python-version={python}", *(f"--platform=manylinux{version}_{machine}" for version in versions)]
    options = ["--dry-run", "--no-deps", "--require-hashes", "--only-binary=:all:", "--target", str(folder)]
    return pip("install", *options, *target, "--requirement", str(LOCK_FILE))


@pytest.mark.slow
@pytest.mark.usefixtures("package_index")
@pytest.mark.parametrize("machine", MACHINES)
def test_every_locked_package_has_a_wheel(machine: str, tmp_path: Path) -> None:
    """The builder stage has no Rust compiler."""
    done = wheels_for(machine, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("package_index")
def test_a_package_without_a_wheel_would_be_found(tmp_path: Path) -> None:
    done = wheels_for("alpha", tmp_path)
    assert "No matching distribution found" in done.stderr
