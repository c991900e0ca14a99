"""response_template is read as transformers reads it."""

from typing import Any

import pytest
from transformers.utils.chat_parsing import parse_response

from model.text.chat_formats.chat_format import PromptEnd
from model.text.chat_formats.detection import chat_format
from tests.model.text.chat_formats.answers import TOOLS, read

THINKING = {"open": "<|thought|>", "close": "<|/thought|>"}
TEMPLATES: dict[str, tuple[dict[str, Any], str]] = {
    "json": (
        {"open": "<call>", "close": "</call>", "content": "json", "repeats": True,
         "transform": {"type": "function", "function": "{content}"}},
        '<call>{"name": "get_weather", "arguments": {"city": "Rom"}}</call>',
    ),
    "other keys": (
        {"open": "<call>", "close": "</call>", "content": "json", "repeats": True,
         "transform": {"type": "function", "function": {"name": "{content.tool}", "arguments": "{content.args}"}}},
        '<call>{"tool": "get_weather", "args": {"city": "Rom"}}</call>',
    ),
    "list": (
        {"open": "<calls>", "close": "</calls>", "content": "json", "transform_each": True,
         "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{arguments}"}}},
        '<calls>[{"name": "get_weather", "arguments": {"city": "Rom"}}]</calls>',
    ),
    "python": (
        {"open": "<calls>", "close": "</calls>", "content": "python-call-list", "transform_each": True,
         "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{arguments}"}}},
        '<calls>[get_weather(city="Rom")]</calls>',
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_fields_are_those_of_transformers(name: str) -> None:
    region, calls = TEMPLATES[name]
    spec = {"start_anchor": "<bot>", "fields": {"content": {}, "thinking": THINKING, "tool_calls": region}}
    text = f"<|thought|>hm<|/thought|>Let me look.{calls}"
    theirs = parse_response(text, spec, prefix="<bot>", tools=TOOLS)
    ours = read(chat_format("", {}, response_template=spec), [text], PromptEnd("<bot>"))
    assert (ours.content, ours.reasoning) == (theirs["content"], theirs["thinking"])
    found = [(call["function"]["name"], call["function"]["arguments"]) for call in theirs["tool_calls"]]
    assert ours.call_values == found == [("get_weather", {"city": "Rom"})]


@pytest.mark.parametrize(
    "spec",
    [
        None,
        "text",
        {"version": 2, "fields": {"tool_calls": TEMPLATES["json"][0]}},
        {"fields": {"tool_calls": {"open_pattern": "<(?P<name>x)>", "close": "</x>", "content": "json"}}},
        {"fields": {"tool_calls": {"open": "<x>", "close": "</x>", "content": "xml-inline"}}},
        {"fields": {"tool_calls": {"open": "<x>", "close_pattern": "y+", "content": "json"}, "thinking": {}}},
    ],
)
def test_the_chat_template_decides_where_it_cannot_be_read(spec: Any) -> None:
    text = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    answer = read(chat_format("<tool_call>", {}, response_template=spec), [text], PromptEnd())
    assert answer.calls == (("f", "{}"),)
