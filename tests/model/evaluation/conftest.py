"""The data directory of fakes.write_data, written once."""

from pathlib import Path

import pytest

from tests.model.evaluation.fakes import write_data


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("evaluation-data"))
