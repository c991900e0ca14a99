"""schemathesis: random requests by our OpenAPI document, valid and not. Each gets an answer, and none a 5xx."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_server import running_server

ANSWER_SECONDS = 120


@pytest.fixture
def short_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A server whose longest answer, of 128 choices, takes seconds."""
    python, log = request.config.getoption("--server-python"), tmp_path / "log"
    with running_server(python, log, "--max-model-len", "128") as url:
        yield url


def test_random_requests(short_url: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    seconds = request.config.getoption("--fuzz-seconds")
    options = ["--checks", "not_a_server_error", "--warnings", "off", "--request-timeout", str(ANSWER_SECONDS)]
    program = str(Path(sys.executable).with_name("schemathesis"))
    command = [program, "run", f"{short_url}/openapi.json", "--max-time", str(seconds), *options]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=2 * seconds + ANSWER_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "No issues found" in done.stdout
