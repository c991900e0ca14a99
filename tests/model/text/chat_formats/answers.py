"""Reading answers in pieces, for the tests of routers."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from model.text.chat_formats.chat_format import ChatFormat, PromptEnd
from model.text.chat_formats.fields import Field, FieldDelta

SCHEMAS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Where"},
            "days": {"type": "integer", "description": "How many"},
            "options": {"type": "object", "description": "More"},
        },
        "required": ["city"],
    },
    "write_file": {
        "type": "object",
        "properties": {
            "text": {"type": "string", "description": "What"},
            "tags": {"type": "array", "description": "?"},
        },
        "required": ["text"],
    },
}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "A tool", "parameters": schema}}
    for name, schema in SCHEMAS.items()
]
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("get_weather", {"city": 'K"öln 你好 😀', "days": 3, "options": {"a": [1, None, True, {"b": "}]"}]}}),
    ("write_file", {"text": "<b>x</b> & </parameter>\n  </tool_call>{1}", "tags": []}),
]


@dataclass(frozen=True)
class Answer:
    """The fields of a whole answer."""

    content: str
    reasoning: str
    calls: tuple[tuple[str, str], ...]

    @property
    def call_values(self) -> list[tuple[str, Any]]:
        return [(name, json.loads(arguments)) for name, arguments in self.calls]


def joined(deltas: Iterable[FieldDelta]) -> Answer:
    texts = {Field.CONTENT: "", Field.REASONING: ""}
    calls: list[list[str]] = []
    for delta in deltas:
        if delta.field is Field.TOOL_NAME:
            assert delta.index == len(calls)
            calls.append([delta.text, ""])
        elif delta.field is Field.TOOL_ARGUMENTS:
            assert delta.index == len(calls) - 1
            calls[-1][1] += delta.text
        else:
            texts[delta.field] += delta.text
    return Answer(texts[Field.CONTENT], texts[Field.REASONING], tuple((name, text) for name, text in calls))


def read(form: ChatFormat, pieces: Iterable[str], end: PromptEnd, *, truncated: bool = False) -> Answer:
    router = form.router(SCHEMAS, end)
    assert router is not None
    deltas = [delta for piece in pieces for delta in router.feed(piece)]
    return joined([*deltas, *router.finish(truncated=truncated)])


def cut(text: str, places: Iterable[int]) -> list[str]:
    bounds = [0, *sorted(places), len(text)]
    return [text[start:end] for start, end in pairwise(bounds)]
