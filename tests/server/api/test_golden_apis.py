"""The exact bytes of streams with reasoning, content and a call: OpenAI's chat and responses, Anthropic's, Ollama's.

The files in golden/ are what clients get, without ids and times. `python -m tests.server.api.test_golden_apis` writes
them anew; read the difference before you commit it.
"""

import re
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.server.api.test_tools import TEMPLATE
from tests.server.applications import client_of, make_server

GOLDEN = Path(__file__).parent / "golden"
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
QUESTION = [{"role": "user", "content": "hi"}]
CHAT_TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (
        "/v1/chat/completions",
        {"messages": QUESTION, "tools": [CHAT_TOOL], "stream_options": {"include_usage": True}},
    ),
    "messages": (
        "/v1/messages",
        {"messages": QUESTION, "max_tokens": 100, "tools": [{"name": "f", "input_schema": SCHEMA}]},
    ),
    "responses": ("/v1/responses", {"input": "hi", "tools": [{"type": "function", "name": "f", "parameters": SCHEMA}]}),
    "ollama_chat": ("/api/chat", {"messages": QUESTION, "tools": [CHAT_TOOL]}),
    "ollama_generate": ("/api/generate", {"prompt": "hi"}),
}


def stream(client: TestClient, name: str, **fields: Any) -> str:
    """The body of a streamed answer, without ids and times."""
    path, body = REQUESTS[name]
    response = client.post(path, json={"stream": True, **body, **fields})
    assert response.status_code == 200, response.text
    text = re.sub(r"(msg|resp|rs|fc)_[0-9a-f]{32}", r"\1_ID", response.content.decode())
    text = re.sub(r"call_[0-9a-f]{24}", "call_ID", text)
    text = re.sub(r"chatcmpl-[0-9a-f]{32}", "chatcmpl-ID", text)
    text = re.sub(r'"created":\d+', '"created":0', text)
    text = re.sub(r'"created_at":(\d+|"[^"]+")', '"created_at":0', text)
    return re.sub(r'_duration":\d+', '_duration":0', text)


def answered(name: str) -> str:
    server = make_server(TEMPLATE)
    server.answer_with("<think>\nhm\n</think>\n\nä" + (f"\n{CALL}" if "tools" in REQUESTS[name][1] else "\n"))
    with client_of(server) as client:
        return stream(client, name)


@pytest.mark.parametrize("name", REQUESTS)
def test_the_bytes_of_a_stream(name: str) -> None:
    assert answered(name) == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


if __name__ == "__main__":
    for name in REQUESTS:
        (GOLDEN / f"{name}.txt").write_text(answered(name), encoding="utf-8")
