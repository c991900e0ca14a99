"""Fixtures and markers of all tests."""

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from model import kernels
from tests.isa import runnable_levels, use_level

collect_ignore = ["clients"]  # they have an environment and a configuration of their own: make test-clients

NO_KERNELS = "no compiled kernels: run python -m model.kernels.build, which needs a C++ compiler"

# Property tests run the same examples every time, so that a failure comes from the change under test.
settings.register_profile("short", deadline=None, database=None, derandomize=True, max_examples=25)
settings.register_profile("thorough", settings.get_profile("short"), max_examples=1000)
settings.load_profile("short")


def pytest_configure() -> None:
    """One thread, in programs that tests start too: tiny networks are faster so, and pytest has a worker per core.

    Where the number of threads matters, a test sets it.
    """
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not kernels.compiled():
        for item in items:
            if item.get_closest_marker("compiled_kernels"):
                item.add_marker(pytest.mark.skip(reason=NO_KERNELS))


@pytest.fixture(scope="module", params=runnable_levels() or [None], ids=str)
def cpu_isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a test once with the compiled kernels of each level that this machine can run."""
    if request.param is None:
        pytest.skip(NO_KERNELS)
    with use_level(request.param):
        yield request.param
