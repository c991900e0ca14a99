"""Client programs and libraries against a live server. One file per client; `url` and `base_url` are the server's."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_server import CONTEXT, ROOT, requests_by_code, running_server


def pytest_addoption(parser: pytest.Parser) -> None:
    python = ROOT / ".venv" / "bin" / "python"
    parser.addoption("--server-python", type=Path, default=python, help="the Python that has the server's packages")
    parser.addoption("--update-screenshots", action="store_true", help="take the pictures of docs/images again")
    parser.addoption("--fuzz-seconds", type=int, default=60, help="how long schemathesis may take")


def pytest_configure() -> None:
    """A proxy of the environment cannot reach this machine, and nothing is asked of a hub or of a telemetry service."""
    os.environ |= {"NO_PROXY": "127.0.0.1,localhost", "HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "unused"}
    os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANGSMITH_TRACING": "false", "DO_NOT_TRACK": "1"}


@pytest.fixture(scope="session")
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("server")
    log = directory / "log"
    options = ("--max-model-len", str(CONTEXT), "--batch-dir", str(directory / "batches"))
    with running_server(request.config.getoption("--server-python"), log, *options) as url:
        yield url
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="session")
def base_url(url: str) -> str:
    """As clients of OpenAI's API want it."""
    return f"{url}/v1"


@pytest.fixture(scope="module", autouse=True)
def _no_server_errors(url: str) -> Iterator[None]:
    """No client makes the server fail, whether or not its own test would notice."""
    yield
    assert not [code for code in requests_by_code(url) if code >= 500]
