"""Fixtures of all tests."""

from collections.abc import Iterator

import pytest

from tests.isa import runnable_levels, use_level


@pytest.fixture(scope="module", params=runnable_levels() or [None], ids=str)
def cpu_isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs what asks for it once with the compiled kernels of each level that this machine can run."""
    if request.param is None:
        pytest.skip("no compiled kernels: run python -m model.kernels.build")
    with use_level(request.param):
        yield request.param
