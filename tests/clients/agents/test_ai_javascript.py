"""Vercel's AI SDK (the npm package `ai`), by its providers for OpenAI-compatible servers and for OpenAI."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parents[1] / "javascript"
SECONDS = 120

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="no node on the path")


@pytest.fixture(scope="module")
def found(agent_url: str) -> Any:
    """What the program found, by the way in which it asked."""
    if not (HERE / "node_modules" / "ai").exists():
        pytest.skip("the npm package ai is not installed: npm install in tests/clients/javascript")
    command = ["node", "ai.mjs", f"{agent_url}/v1"]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("api", ["compatible", "chat", "responses"])
def test_text_streams_a_tool_and_an_object(found: Any, api: str) -> None:
    answers = found[api]
    assert answers["text"] == answers["answer"] == answers["streamed"] == "It is sunny in Paris."
    assert answers["results"] == ["sunny in Paris"]
    assert answers["reasons"] == ["tool-calls", "stop"]
    assert {"tool-input-delta", "tool-call", "tool-result", "text-delta", "finish"} <= set(answers["parts"])
    assert answers["object"] == {"city": "Paris", "sunny": True}
    assert answers["usage"] > 0
