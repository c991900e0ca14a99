"""Every test here that asks for `pair` runs once per family."""

import pytest

from tests.model.families.checkpoints import CASES, Pair, write_checkpoint


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write_checkpoint(request.param, tmp_path_factory.mktemp(request.param))
