"""Conversations with very many calls, and with very deep arguments, are cheap to read and never a 500."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from starlette.testclient import TestClient

from model.text.chat_formats.json_values import MAX_DEPTH, is_deeper, parsed_or_text
from model.text.chat_formats.tagged_format import TaggedFormat
from server.api.ollama.fields import Message, chat_messages
from server.chat.request import ChatMessage, ChatRequest, ToolCall
from server.chat.template_messages import template_messages

T = TypeVar("T")
CHAT = "/v1/chat/completions"
NUM_CALLS, NUM_RESULTS = 20_000, 2_000


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


def timed(function: Callable[[], T]) -> tuple[T, float]:
    """The result, and the processor time of the quickest of three calls: garbage collection falls into any of them."""

    def once() -> float:
        begun = time.process_time()
        function()
        return time.process_time() - begun

    return function(), min(once() for _ in range(3))


def ask(client: TestClient, path: str, arguments: Any) -> Any:
    calls = [{"id": "x", "function": {"name": "f", "arguments": arguments}}]
    body = {"messages": [{"role": "assistant", "content": "", "tool_calls": calls}, {"role": "user", "content": "hi"}]}
    return client.post(path, json=body | ({"stream": False} if path == "/api/chat" else {"max_tokens": 2}))


@pytest.mark.parametrize("path", [CHAT, "/api/chat"])
@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 500, 900])
def test_arguments_that_are_too_deep(client: TestClient, path: str, levels: int) -> None:
    """As an object they are refused; a text is rendered as the text that it is."""
    refused = ask(client, path, deep(levels))
    assert refused.status_code == 400
    assert "lists and objects can be in each other" in refused.text
    text = '{"a":' * levels + "1" + "}" * levels
    assert ask(client, path, text).status_code in (200, 400)


@pytest.mark.parametrize("path", [CHAT, "/api/chat"])
def test_arguments_that_are_deep_enough(client: TestClient, path: str) -> None:
    assert "lists and objects" not in ask(client, path, deep(MAX_DEPTH)).text


def test_parsed_values_have_a_bounded_depth() -> None:
    assert isinstance(parsed_or_text("[" * MAX_DEPTH + "]" * MAX_DEPTH), list)
    text = "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)
    assert parsed_or_text(text) == text
    assert not is_deeper("a", 0)
    assert is_deeper([[]], 1)


def test_results_find_their_calls_without_a_search() -> None:
    """One by one through all calls would be 40 million comparisons, seconds in which no other request is answered."""
    calls = tuple(ToolCall(f"id{number}", "f", "{}") for number in range(NUM_CALLS))
    results = [ChatMessage("tool", "r", tool_call_id="other") for _ in range(NUM_RESULTS)]
    last = ChatMessage("tool", "r", tool_call_id=f"id{NUM_CALLS - 1}")
    request = ChatRequest([ChatMessage("assistant", tool_calls=calls), *results, last])
    messages, seconds = timed(lambda: template_messages(request, TaggedFormat(), lambda name: True))
    assert seconds < 1
    assert (messages[-1]["name"], messages[1]["name"]) == ("f", "")


def test_results_of_ollama_find_their_calls_without_a_search() -> None:
    calls = [{"function": {"name": "f"}}] * 128
    body = [{"role": "assistant", "tool_calls": calls}] * (NUM_CALLS // 128)
    body += [{"role": "tool", "content": "r", "tool_name": "g"}] * NUM_RESULTS
    messages = [Message.model_validate(message) for message in body]
    found, seconds = timed(lambda: chat_messages(messages))
    assert seconds < 1
    assert found[NUM_CALLS // 128].tool_call_id == "call_0_0"
