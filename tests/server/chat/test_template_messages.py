"""Conversations with tool calls, in the form that chat templates take."""

from model.text.chat_formats.detection import chat_format
from server.chat.request import ChatMessage, ChatRequest, ToolCall
from server.chat.template_messages import template_messages

KIMI = chat_format("<|tool_calls_section_begin|>", {})  # its ids name the function


def turn(name: str, call_id: str) -> list[ChatMessage]:
    """A call and its result."""
    call = ToolCall(call_id, name, "{}")
    return [ChatMessage("assistant", tool_calls=[call]), ChatMessage("tool", "done", tool_call_id=call_id)]


def answered(*messages: ChatMessage) -> list[tuple[str, str]]:
    """Name and id of the call that each result says it answers."""
    written = template_messages(ChatRequest(messages), KIMI, lambda variable: True)
    return [(message["name"], message["tool_call_id"]) for message in written if message["role"] == "tool"]


def test_a_result_answers_the_last_call_before_it_that_has_its_id() -> None:
    """Some clients count the calls of each turn anew."""
    both = [*turn("look", "call_0"), *turn("buy", "call_0")]
    assert answered(*both) == [("look", "functions.look:0"), ("buy", "functions.buy:1")]


def test_results_in_another_order_than_the_calls() -> None:
    calls = [ToolCall("a", "look", "{}"), ToolCall("b", "buy", "{}")]
    results = [ChatMessage("tool", "done", tool_call_id=call_id) for call_id in ("b", "a", "none")]
    found = answered(ChatMessage("assistant", tool_calls=calls), *results)
    assert found == [("buy", "functions.buy:1"), ("look", "functions.look:0"), ("", "none")]
