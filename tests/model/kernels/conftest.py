"""Where the kernels of a test compute: at each level that runs here, and compiled for aarch64 in an emulator."""

import platform
import shutil
from collections.abc import Iterator

import pytest

from tests.conftest import NO_KERNELS
from tests.isa import AARCH64, runnable_levels, use_level
from tests.model.kernels.aarch64.kernel_process import (
    KernelProcess,
    compile_driver,
    compile_kernels,
    compute_in,
    kernel_process,
)

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
LIBRARIES = "/usr/aarch64-linux-gnu"  # of the C++ runtime that belongs to Debian's cross compiler


@pytest.fixture(scope="session")
def aarch64_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelProcess]:
    if platform.machine() == AARCH64:
        pytest.skip("the tests of the level generic run on this processor")
    if not (shutil.which(COMPILER) and shutil.which(EMULATOR)):
        pytest.skip(f"no {COMPILER} or no {EMULATOR} (Debian packages g++-aarch64-linux-gnu and qemu-user)")
    folder = tmp_path_factory.mktemp(AARCH64)
    command = [EMULATOR, "-L", LIBRARIES, compile_driver(COMPILER, folder)]
    with kernel_process(command, compile_kernels(COMPILER, folder), folder) as process:
        yield process


@pytest.fixture(
    scope="module", params=[*(runnable_levels() or [None]), pytest.param(AARCH64, marks=pytest.mark.slow)], ids=str
)
def kernel_target(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a test once with the compiled kernels of each level that this machine can run, and in an emulator."""
    if request.param is None:
        pytest.skip(NO_KERNELS)
    elif request.param == AARCH64:
        with compute_in(request.getfixturevalue("aarch64_process")):
            yield request.param
    else:
        with use_level(request.param):
            yield request.param
