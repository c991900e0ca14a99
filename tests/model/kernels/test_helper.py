"""A helper never changes a result, even if it is interrupted in the midst of one."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.kernels.library import load_library
from model.kernels.matmul import packed
from model.kernels.matmul.codes import Format
from model.kernels.matmul.helper import helper_counts, start_helper, stop_helper
from model.kernels.matmul.packed import PackedWeights
from model.kernels.types import GatedMLPWeights
from tests.conftest import NO_KERNELS
from tests.isa import runnable_levels, use_level
from tests.model.kernels.test_matmul import random_codes

pytestmark = pytest.mark.skipif(not runnable_levels(), reason=NO_KERNELS)

TASKS = Path("/proc/self/task")
ROWS = [1, 7, 61]
MANY_ROWS = 1000  # several time slices of the system


@pytest.fixture(scope="module", params=runnable_levels())
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    with use_level(request.param):
        yield request.param


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@contextmanager
def helper() -> Iterator[None]:
    """Ends before the weights of the test are freed."""
    start_helper()
    try:
        yield
    finally:
        stop_helper()


@contextmanager
def interrupted_helper() -> Iterator[None]:
    """It shares one processor with the calling thread and runs for a tenth of the time."""
    allowed, threads = os.sched_getaffinity(0), set(TASKS.iterdir())
    os.sched_setaffinity(0, {min(allowed)})
    try:
        with helper():
            (thread,) = set(TASKS.iterdir()) - threads
            os.setpriority(os.PRIO_PROCESS, int(thread.name), 10)
            yield
    finally:
        os.sched_setaffinity(0, allowed)


def linear(kind: Format, rows: int, dtype: torch.dtype) -> Callable[[], Tensor]:
    weights, x = PackedWeights(random_codes(kind, 1, 1000, 352)), torch.randn(rows, 352).to(dtype)
    return lambda: packed.linear(x, weights)


def moe(kind: Format, rows: int, dtype: torch.dtype) -> Callable[[], Tensor]:
    routed = GatedMLPWeights(
        *(PackedWeights(random_codes(kind, 4, outputs, inputs)) for outputs, inputs in ((448, 192), (192, 224)))
    )
    x, weights = torch.randn(rows, 192).to(dtype), torch.rand(rows, 2)
    experts = torch.stack([torch.randperm(4)[:2] for _ in range(rows)])
    return lambda: packed.moe(x, experts, weights, routed)


def until(happened: Callable[[], bool], patience: float = 20.0) -> Iterator[None]:
    end = time.monotonic() + patience
    while not happened() and time.monotonic() < end:
        yield
    assert happened()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", list(Format))
@pytest.mark.parametrize("product", [linear, moe])
def test_results_with_a_helper_have_the_same_bits(
    level: str, product: Callable[..., Callable[[], Tensor]], kind: Format, dtype: torch.dtype
) -> None:
    computations = [product(kind, rows, dtype) for rows in ROWS]
    expected = [compute() for compute in computations]
    with helper():
        for _ in until(lambda: helper_counts().helped > 20):
            assert all(torch.equal(compute(), whole) for compute, whole in zip(computations, expected, strict=True))


@pytest.mark.parametrize("product", [linear, moe])
def test_what_an_interrupted_helper_has_begun_is_computed_again(
    product: Callable[..., Callable[[], Tensor]],
) -> None:
    compute = product(Format.F32, MANY_ROWS, torch.float32)
    expected = compute()
    with interrupted_helper():
        for _ in until(lambda: helper_counts().repeated > 0):
            assert torch.equal(compute(), expected)


def test_a_helper_ends_while_it_is_late() -> None:
    compute = moe(Format.F32, MANY_ROWS, torch.float32)
    expected = compute()
    for _ in range(10):
        with interrupted_helper():
            found = [compute() for _ in range(2)]
        assert all(torch.equal(result, expected) for result in found)


def test_several_threads_are_not_helped() -> None:
    torch.set_num_threads(2)
    compute = linear(Format.F32, 61, torch.float32)
    with helper():
        compute()
        assert helper_counts() == (0, 0)


ONE_THREAD_TOO_MANY = """
import ctypes, resource, sys, threading
library = ctypes.CDLL(sys.argv[1])
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 20),) * 2)  # no room for a stack
try:
    threading.Thread(target=print).start()
except RuntimeError:
    library.start_helper()
    library.stop_helper()
    print("went on")
"""


def test_where_no_thread_can_start_there_is_no_helper() -> None:
    library = load_library("matmul")
    assert library is not None
    command = [sys.executable, "-c", ONE_THREAD_TOO_MANY, library._name]
    assert subprocess.run(command, capture_output=True, text=True, check=False).stdout == "went on\n"
