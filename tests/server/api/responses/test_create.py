"""OpenAI's responses: items in, items out, and what needs storage is refused."""

import json
from typing import Any

import pytest
from openai.types.responses import Response
from starlette.testclient import TestClient

from tests.server.api.test_tools import CALL, TEMPLATE
from tests.server.applications import Server, make_server

WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
OTHER = {"type": "function", "name": "other"}


@pytest.fixture
def server() -> Server:
    return make_server(TEMPLATE)


def ask(client: TestClient, status: int = 200, **body: Any) -> Any:
    response = client.post("/v1/responses", json={"input": "hi"} | body)
    assert response.status_code == status, response.text
    return response.json()


def prompt_of(server: Server) -> str:
    return server.tokenizer.decode(server.engine.submitted[-1].prompt_token_ids)


def test_a_whole_response(client: TestClient, server: Server) -> None:
    server.answer_with(f"<think>hm</think>Let me look.\n{CALL}")
    answer = ask(client, tools=[WEATHER], instructions="be brief", max_output_tokens=200)
    Response.model_validate(answer)
    reasoning, message, call = answer["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "hm"}]
    assert message["content"][0]["text"] == "Let me look."
    assert (call["type"], call["name"], call["arguments"]) == ("function_call", "weather", '{"city": "Köln"}')
    assert call["call_id"].startswith("call_")
    assert (answer["status"], answer["error"], answer["incomplete_details"]) == ("completed", None, None)
    assert (answer["instructions"], answer["max_output_tokens"]) == ("be brief", 200)
    assert answer["tools"] == [WEATHER | {"description": None, "strict": False}]
    assert answer["usage"]["output_tokens_details"]["reasoning_tokens"] > 0


def test_an_answer_that_was_cut_off_is_incomplete(client: TestClient, server: Server) -> None:
    server.answer_with("one two")
    answer = ask(client, max_output_tokens=3)
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert answer["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize(("max_output_tokens", "status"), [(70, "incomplete"), (200, "completed")])
def test_the_items_of_a_stream_end_with_the_status_that_they_have_in_the_response(
    client: TestClient, server: Server, max_output_tokens: int, status: str
) -> None:
    """Clients run a call as soon as its item is done."""
    server.answer_with(f"Let me look.\n{CALL}")
    body = {"input": "hi", "tools": [WEATHER], "max_output_tokens": max_output_tokens, "stream": True}
    text = client.post("/v1/responses", json=body).text
    events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == events[-1]["response"]["output"]
    assert [item["status"] for item in done] == ["completed", status]


def test_the_output_of_an_answer_can_be_sent_back(client: TestClient, server: Server) -> None:
    server.answer_with(f"<think>hm</think>Let me look.\n{CALL}")
    output = ask(client, tools=[WEATHER])["output"]
    result = {"type": "function_call_output", "call_id": output[-1]["call_id"], "output": "sunny"}
    question = {"role": "user", "content": [{"type": "input_text", "text": "hi"}]}
    answer = ask(client, input=[{"role": "developer", "content": "dev"}, question, *output, result], instructions="be")
    assert "warnings" not in answer
    prompt = prompt_of(server)
    expected = ("system\nbe\n\ndev", "user\nhi", "<think>hm</think>", "Let me look.", "Köln", "tool\nsunny")
    positions = [prompt.index(part) for part in expected]
    assert positions == sorted(positions)
    assert prompt.count("assistant\n") == 2  # reasoning, text and call are one turn


def test_only_allowed_tools_are_offered(client: TestClient, server: Server) -> None:
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]}
    ask(client, tools=[WEATHER, OTHER], tool_choice=allowed)
    assert "weather" in prompt_of(server)
    assert "other" not in prompt_of(server)


def test_a_call_is_not_required_where_no_tool_is_allowed(client: TestClient) -> None:
    choice = {"type": "allowed_tools", "mode": "required", "tools": []}
    answer = ask(client, 400, tools=[WEATHER], tool_choice=choice)
    assert answer["error"]["message"] == "tool_choice: required needs tools."


def test_what_changes_nothing_is_accepted_in_silence(client: TestClient) -> None:
    harmless = {
        "include": ["reasoning.encrypted_content"],
        "store": False,
        "truncation": "disabled",
        "background": False,
        "previous_response_id": None,
        "prompt_cache_key": "k",
        "metadata": {},
        "text": {"verbosity": "low"},
        "reasoning": {"summary": "auto"},
        "stream_options": {"include_obfuscation": False},
    }
    assert "warnings" not in ask(client, **harmless)
    assert "store" in ask(client, store=True)["warnings"][0]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "c"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools.0"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "x"}, "tools": [WEATHER]}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.content.0.type"),
        ({"input": []}, "input"),
    ],
    ids=lambda value: str(value)[:50],
)  # fmt: skip
def test_what_is_refused_is_named(client: TestClient, body: dict[str, Any], param: str) -> None:
    assert ask(client, 400, **body)["error"]["param"] == param


UNWRITABLE = [b'"\\ud800"', b'["\\ud800"]', b'{"\\ud800": 1}', b"[" * 900 + b"]" * 900]


@pytest.mark.parametrize("value", UNWRITABLE, ids=lambda value: value[:9].decode())
@pytest.mark.parametrize(
    ("field", "param"),
    [
        (b'"text": {"format": {"type": "text", "x": %b}}', "text.format.x"),
        (b'"tool_choice": {"type": "function", "name": "weather", "x": %b}', "tool_choice.x"),
        (b'"tools": [{"type": "function", "name": "f", "x": %b}]', "tools.0.x"),
        (b'"tools": [{"type": "function", "name": "f", "parameters": {"x": %b}}]', "tools.0.parameters"),
    ],
    ids=["text", "choice", "tool", "parameters"],
)
def test_what_cannot_be_written_again_is_refused(client: TestClient, field: bytes, param: str, value: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    for written, status in ((value, 400), (b'"x"', 200)):
        body = b'{"input": "hi", "tools": [{"type": "function", "name": "weather"}], %b}' % (field % written)
        response = client.post("/v1/responses", content=body, headers=headers)
        assert response.status_code == status, response.text
        if status == 400:
            assert response.json()["error"]["param"] == param


def test_a_failed_step_ends_the_stream_with_a_failed_response(client: TestClient, server: Server) -> None:
    server.engine.fail_after = 1
    *_, last, empty = client.post("/v1/responses", json={"input": "hi", "stream": True}).text.split("\n\n")
    assert empty == ""
    assert last.startswith("event: response.failed\n")
    assert '"error":{"code":"server_error","message":"the step failed"}' in last


LOGPROBS = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}


def test_the_tokens_of_the_content_have_log_probabilities(client: TestClient, server: Server) -> None:
    server.answer_with(f"<think>hm</think>Köln.\n{CALL}")
    reasoning, message, _ = ask(client, tools=[WEATHER], **LOGPROBS)["output"]
    assert "logprobs" not in reasoning["content"][0]
    found = message["content"][0]["logprobs"]
    assert bytes(byte for entry in found for byte in entry["bytes"]).decode().strip() == "Köln."
    assert all(len(entry["top_logprobs"]) == 2 and entry["logprob"] < 0 for entry in found)


def test_log_probabilities_are_streamed_with_their_text(client: TestClient, server: Server) -> None:
    server.answer_with("<think>hm</think>Köln.")
    whole = ask(client, **LOGPROBS)["output"][1]["content"][0]["logprobs"]
    text = client.post("/v1/responses", json={"input": "hi", "stream": True} | LOGPROBS).text
    events = [json.loads(line.removeprefix("data: ")) for line in text.split("\n") if line.startswith("data: ")]
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    [done] = [event for event in events if event["type"] == "response.output_text.done"]
    assert len(deltas) > 2
    assert [entry for event in deltas for entry in event["logprobs"]] == done["logprobs"] == whole
    assert events[-1]["response"]["output"][1]["content"][0]["logprobs"] == whole


def test_there_are_no_log_probabilities_unless_they_are_asked_for(client: TestClient) -> None:
    answer = ask(client, top_logprobs=2)
    assert answer["output"][0]["content"][0]["logprobs"] == []
    assert "top_logprobs" in answer["warnings"][0]
    assert ask(client, 400, top_logprobs=21)["error"]["param"] == "top_logprobs"
