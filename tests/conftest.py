"""Fixtures and markers of all tests."""

from collections.abc import Iterator

import pytest

from model import kernels
from tests.isa import runnable_levels, use_level

NO_KERNELS = "no compiled kernels: run python -m model.kernels.build, which needs a C++ compiler"


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
