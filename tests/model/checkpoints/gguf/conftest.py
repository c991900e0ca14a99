"""How long fuzzing takes."""

import os
from collections.abc import Callable

import pytest


@pytest.fixture
def fuzz_runs() -> Callable[[int], int]:
    """The number of runs: that of the test, or ROUTELM_FUZZ_RUNS."""
    return lambda usual: int(os.environ.get("ROUTELM_FUZZ_RUNS", usual))
