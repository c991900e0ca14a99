"""Agents against a scripted checkpoint: `agent_url` is the server's, MODEL its name."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_server import requests_by_code, running_server

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def agent_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    python = request.config.getoption("--server-python")
    checkpoint, log = tmp_path_factory.mktemp("checkpoint") / "scripted", tmp_path_factory.mktemp("agents") / "log"
    subprocess.run([python, HERE / "scripted_checkpoint.py", checkpoint], check=True)
    options = ("--model", str(checkpoint), "--cache-bytes", "256MiB", "--max-model-len", "16384")
    with running_server(python, log, *options) as url:
        yield url
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module", autouse=True)
def _no_failures_of_the_server(agent_url: str) -> Iterator[None]:
    yield
    assert not [code for code in requests_by_code(agent_url) if code >= 500]
