"""JSON schemas in the fields of Anthropic's, OpenAI's responses and Ollama's APIs constrain the answer."""

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.server.api.test_tools import TEMPLATE
from tests.server.applications import Server, make_server

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
QUESTION = [{"role": "user", "content": "hi"}]
Body = dict[str, Any]


def messages(schema: Body) -> Body:
    form = {"type": "json_schema", "schema": schema}
    return {"messages": QUESTION, "max_tokens": 9, "output_config": {"format": form}}


def responses(schema: Body) -> Body:
    return {"input": "hi", "text": {"format": {"type": "json_schema", "name": "x", "schema": schema}}}


REQUESTS: dict[str, tuple[str, Any]] = {
    "messages": ("/v1/messages", messages),
    "responses": ("/v1/responses", responses),
    "chat": ("/api/chat", lambda schema: {"messages": QUESTION, "format": schema}),
    "generate": ("/api/generate", lambda schema: {"prompt": "hi", "format": schema}),
    "raw": ("/api/generate", lambda schema: {"prompt": "hi", "format": schema, "raw": True}),
}


@pytest.fixture
def server() -> Server:
    return make_server(TEMPLATE)


@pytest.mark.parametrize("name", REQUESTS)
def test_a_schema_constrains_the_answer(client: TestClient, server: Server, name: str) -> None:
    path, body = REQUESTS[name]
    assert client.post(path, json=body(SCHEMA)).status_code == 200
    grammars = json.loads(server.engine.submitted[0].sampling.grammar or "{}")["grammars"]
    [schema] = [grammar["json_schema"] for grammar in grammars if "json_schema" in grammar]
    assert schema["required"] == ["a"]


@pytest.mark.parametrize("name", REQUESTS)
def test_a_schema_that_cannot_be_used_is_refused_with_its_place(client: TestClient, name: str) -> None:
    path, body = REQUESTS[name]
    response = client.post(path, json=body({"type": "object", "properties": {"a": {"not": {}}}}))
    assert response.status_code == 400
    assert ".properties.a.not: `not` is not supported here" in response.text


def test_any_object_will_do(client: TestClient, server: Server) -> None:
    body = {"input": "hi", "text": {"format": {"type": "json_object"}}}
    assert client.post("/v1/responses", json=body).status_code == 200
    assert client.post("/api/chat", json={"messages": QUESTION, "format": "json"}).status_code == 200
    for request in server.engine.submitted:
        assert '"type": "object"' in (request.sampling.grammar or "")


def test_calls_that_are_required_follow_a_grammar(client: TestClient, server: Server) -> None:
    tool = {"name": "f", "input_schema": SCHEMA}
    for choice in ({"type": "any"}, {"type": "tool", "name": "f"}):
        asked = {"messages": QUESTION, "max_tokens": 9, "tools": [tool], "tool_choice": choice}
        assert client.post("/v1/messages", json=asked).status_code == 200
    function = {"type": "function", "name": "f", "parameters": SCHEMA}
    asked = {"input": "hi", "tools": [function], "tool_choice": "required"}
    assert client.post("/v1/responses", json=asked).status_code == 200
    assert all("tool_call" in (request.sampling.grammar or "") for request in server.engine.submitted)
