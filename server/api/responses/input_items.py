"""The items of an input, as /v1/responses and /v1/decisions take them: messages, calls and their results, reasoning."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, Tag
from pydantic_core import PydanticCustomError

from server.api.request_model import FirstErrorOnly, NullableTextParts, Text, WithExtras, served_types
from server.api.tools import CallId, FunctionName

MAX_ITEMS = 4096
MAX_PARTS = 256

PartType = Literal["input_text", "output_text", "text", "summary_text", "reasoning_text", "refusal"]


def _text_only(kind: Any) -> Any:
    if isinstance(kind, str) and not kind.endswith("text") and kind != "refusal":
        raise PydanticCustomError("unsupported_parameter", "only text is served: images, sound and files are not")
    return kind


class TextPart(WithExtras):
    """A piece of text; that of a refusal is in `refusal`."""

    type: Annotated[PartType, BeforeValidator(_text_only)]
    text: Text = ""
    refusal: Text = ""


Parts = Annotated[
    list[TextPart],
    FirstErrorOnly,
    Field(max_length=MAX_PARTS, description="A string or a list of text parts."),
    NullableTextParts,
]


def joined(parts: list[TextPart]) -> str:
    return "".join(part.text or part.refusal for part in parts)


class MessageItem(WithExtras):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Parts


class FunctionCallItem(WithExtras):
    type: Literal["function_call"]
    call_id: CallId
    name: FunctionName
    arguments: Text


class FunctionCallOutputItem(WithExtras):
    type: Literal["function_call_output"]
    call_id: CallId
    output: Parts


class ReasoningItem(WithExtras):
    """What the model thought before an answer. `encrypted_content` of other servers cannot be read here."""

    type: Literal["reasoning"]
    summary: Parts = Field(default_factory=list)
    content: Parts = Field(default_factory=list)


InputItem = MessageItem | FunctionCallItem | FunctionCallOutputItem | ReasoningItem
_CHECK, _CHOOSE = served_types("message", "function_call", "function_call_output", "reasoning", default="message")
_Tagged = Annotated[
    Annotated[
        Annotated[MessageItem, Tag("[message]")]
        | Annotated[FunctionCallItem, Tag("[function_call]")]
        | Annotated[FunctionCallOutputItem, Tag("[function_call_output]")]
        | Annotated[ReasoningItem, Tag("[reasoning]")],
        _CHOOSE,
    ],
    _CHECK,
]


def _as_items(value: Any) -> Any:
    if not isinstance(value, str | list):
        raise PydanticCustomError("string_or_items", "a string, or a list of items, is expected")
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


def _not_empty(items: list[InputItem]) -> list[InputItem]:
    if not items:
        raise PydanticCustomError("no_items", "give at least one item")
    return items


InputItems = Annotated[
    list[_Tagged],
    FirstErrorOnly,
    Field(max_length=MAX_ITEMS, description="A string or a list of items."),
    BeforeValidator(_as_items),
    AfterValidator(_not_empty),
]


def ignored_item_fields(items: list[InputItem]) -> Iterator[str]:
    """The paths of fields that have no effect. Ids and states, which answers have, are not worth a warning."""
    for index, item in enumerate(items):
        for path in item.ignored_fields(f"input.{index}"):
            if path.rpartition(".")[2] not in ("id", "status", "phase"):
                yield path
