"""Anthropic's messages: what reaches the template, what comes back, and errors in Anthropic's shape."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.server.api.test_tools import CALL, TEMPLATE
from tests.server.applications import Server, client_of, make_server

HI = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 120}
CALL_BLOCK = {"type": "tool_use", "id": "a", "name": "weather", "input": {}}
RESULT_BLOCK = {"type": "tool_result", "tool_use_id": "a", "content": "sunny"}
WEATHER = {"name": "weather", "description": "of a city", "input_schema": {"type": "object"}}


@pytest.fixture
def server() -> Server:
    return make_server(TEMPLATE)


def ask(client: TestClient, status: int = 200, path: str = "/v1/messages", **body: Any) -> Any:
    response = client.post(path, json=HI | body)
    assert response.status_code == status, response.text
    return response.json()


def refusal(client: TestClient, **body: Any) -> str:
    answer = ask(client, 400, **body)
    assert (answer["type"], answer["error"]["type"]) == ("error", "invalid_request_error")
    message: str = answer["error"]["message"]
    return message


def prompt_of(server: Server) -> str:
    return server.tokenizer.decode(server.engine.submitted[-1].prompt_token_ids)


def test_a_whole_answer_has_the_blocks_of_the_stream(client: TestClient, server: Server) -> None:
    server.answer_with(f"<think>hm</think>Let me look.\n{CALL}")
    answer = ask(client, tools=[WEATHER])
    thinking, text, call = answer["content"]
    assert thinking == {"type": "thinking", "thinking": "hm", "signature": "unsigned"}
    assert text == {"type": "text", "text": "Let me look."}
    assert call.pop("id").startswith("call_")
    assert call == {"type": "tool_use", "name": "weather", "input": {"city": "Köln"}}
    assert (answer["role"], answer["stop_reason"], answer["stop_sequence"]) == ("assistant", "tool_use", None)


def test_arguments_that_are_no_json_are_not_lost(client: TestClient, server: Server) -> None:
    server.answer_with('<tool_call>{"name": "weather", "arguments": {city: "Köln"}}</tool_call>')
    [call] = ask(client, tools=[WEATHER])["content"]
    assert call["input"] == {"INVALID_JSON": '{city: "Köln"}}'}


@pytest.mark.parametrize(
    ("fields", "reason", "stop", "text"),
    [
        ({}, "end_turn", None, "one two"),
        ({"stop_sequences": ["tw", "x"]}, "stop_sequence", "tw", "one "),
        ({"max_tokens": 3}, "max_tokens", None, "one"),
    ],
)
def test_why_an_answer_ended(
    client: TestClient, server: Server, fields: dict[str, Any], reason: str, stop: str | None, text: str
) -> None:
    server.answer_with("one two")
    answer = ask(client, **fields)
    assert (answer["stop_reason"], answer["stop_sequence"]) == (reason, stop)
    assert [block["text"] for block in answer["content"]] == [text]


def test_cached_tokens_are_counted_apart(client: TestClient, server: Server) -> None:
    server.engine.cached_tokens = 5
    usage = ask(client)["usage"]
    counted = ask(client, path="/v1/messages/count_tokens")
    assert usage["cache_read_input_tokens"] == 5
    assert counted == {"input_tokens": usage["input_tokens"] + 5}


def test_blocks_become_the_messages_of_the_template(client: TestClient, server: Server) -> None:
    conversation = [
        {"role": "user", "content": [{"type": "text", "text": "go", "cache_control": {"type": "ephemeral"}}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "unsigned"},
                {"type": "redacted_thinking", "data": "xx"},
                {"type": "text", "text": "wait"},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Rom"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "sunny"}]},
                {"type": "text", "text": "and now?"},
            ],
        },
    ]  # fmt: skip
    system = [{"type": "text", "text": "x-anthropic-billing-header: cc=1"}, {"type": "text", "text": "be"}]
    answer = ask(client, messages=conversation, system=system, tools=[WEATHER], metadata={"user_id": "u"})
    assert "warnings" not in answer
    prompt = prompt_of(server)
    expected = ("system\nbe", "user\ngo", "<think>hm</think>\nwait", '"city": "Rom"', "tool\nsunny", "user\nand now?")
    positions = [prompt.index(part) for part in expected]
    assert positions == sorted(positions)
    assert "billing" not in prompt
    assert "weather" in prompt[: prompt.index("user\ngo")]


def test_an_answer_goes_on_with_a_last_message_of_the_assistant(client: TestClient, server: Server) -> None:
    ask(client, messages=[*HI["messages"], {"role": "assistant", "content": "It is"}])  # type: ignore[misc]
    assert prompt_of(server).endswith("assistant\nIt is")


@pytest.mark.parametrize(("kind", "opened"), [("enabled", True), ("disabled", False), ("adaptive", False)])
def test_thinking_is_a_variable_of_the_template(client: TestClient, server: Server, kind: str, opened: bool) -> None:
    ask(client, thinking={"type": kind})
    assert prompt_of(server).endswith("<think>\n") == opened


def test_tools_are_not_called_where_they_are_switched_off(client: TestClient, server: Server) -> None:
    server.answer_with(CALL)
    answer = ask(client, tools=[WEATHER], tool_choice={"type": "none"})
    assert [block["type"] for block in answer["content"]] == ["text"]
    server.answer_with(f"{CALL}\n{CALL}")
    answer = ask(client, tools=[WEATHER], tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    assert [block["type"] for block in answer["content"]] == ["tool_use"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search_20250305 is not served"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages.0.content.0: the type image"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [CALL_BLOCK]}]}, "messages.0: tool_use is for the assistant"),
        ({"messages": [{"role": "assistant", "content": [RESULT_BLOCK]}]}, "messages.0: tool_result is for the user"),
        ({"messages": []}, "messages: List should have at least 1 item"),
        ({"tool_choice": {"type": "any"}}, "tool_choice: any needs tools"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice.name: x is not in tools"),
        ({"mcp_servers": [{"url": "http://x"}]}, "mcp_servers: this server calls no other servers"),
        ({"max_tokens": 0}, "max_tokens: 0 tokens are not enough"),
        ({"temperature": 9}, "temperature: Input should be less than or equal to 5"),
    ],
    ids=lambda value: str(value)[:50],
)  # fmt: skip
def test_what_is_refused_is_named(client: TestClient, body: dict[str, Any], told: str) -> None:
    assert told in refusal(client, **body)


def test_errors_have_anthropics_types(client: TestClient, server: Server) -> None:
    assert ask(client, 404, model="claude")["error"]["type"] == "not_found_error"
    server.engine.occupied = server.engine.capacity
    assert ask(client, 429)["error"]["type"] == "rate_limit_error"
    with client_of(make_server(api_key="secret")) as closed:
        assert closed.post("/v1/messages", json=HI).json()["error"]["type"] == "authentication_error"
        assert closed.post("/v1/messages", json=HI, headers={"x-api-key": "secret"}).status_code == 200


def test_a_failed_step_is_an_error_event(client: TestClient, server: Server) -> None:
    server.engine.fail_after = 1
    events = client.post("/v1/messages", json={**HI, "stream": True}).text.split("\n\n")
    assert events[-2].startswith("event: error\n")
    assert '"type":"api_error","message":"the step failed"' in events[-2]
