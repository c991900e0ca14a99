"""The program `llm`, set up for another server as its documentation says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from live_server import MODEL

MODELS = """
- {{model_id: ours, model_name: {model}, api_base: "{base_url}"}}
- {{model_id: ours-completion, model_name: {model}, api_base: "{base_url}", completion: true}}
"""


@pytest.fixture
def folder(base_url: str, tmp_path: Path) -> Path:
    (tmp_path / "extra-openai-models.yaml").write_text(MODELS.format(model=MODEL, base_url=base_url))
    return tmp_path


def llm(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("llm")), *arguments],
        env={**os.environ, "LLM_USER_PATH": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_prompt_streamed_or_not(folder: Path) -> None:
    options = [
        "-m",
        "ours",
        "-s",
        "Answer briefly.",
        "-o",
        "temperature",
        "0",
        "-o",
        "max_tokens",
        "12",
        "How are you?",
    ]
    whole = llm(folder, *options, "--no-stream")
    assert whole.strip()
    assert llm(folder, *options) == whole


def test_a_conversation_goes_on(folder: Path) -> None:
    options = ["-o", "temperature", "0", "-o", "max_tokens", "12"]
    llm(folder, "-m", "ours", *options, "How are you?")
    assert llm(folder, "-c", *options, "Good.").strip()


def test_completion_model(folder: Path) -> None:
    assert llm(folder, "-m", "ours-completion", "-o", "max_tokens", "8", "Once upon a time").strip()
