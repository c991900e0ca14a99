"""Messages and their content blocks, as Anthropic's clients send them."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from server.api.bounded_json import BoundedObject
from server.api.request_model import FirstErrorOnly, NullableTextParts, Text, WithExtras, served_types
from server.api.tools import CallId, FunctionName

MAX_BLOCKS = 4096
MAX_MESSAGES = 4096
HARMLESS = ("cache_control", "citations", "caller", "toolset_name")  # change nothing here, and are sent back by clients


class TextBlock(WithExtras):
    type: Literal["text"]
    text: Text


class ThinkingBlock(WithExtras):
    """`signature` is not checked."""

    type: Literal["thinking"]
    thinking: Text
    signature: Text = ""


class RedactedThinkingBlock(WithExtras):
    """Thinking that only another server can read; it is left out of the prompt."""

    type: Literal["redacted_thinking"]
    data: Text = ""


class ToolUseBlock(WithExtras):
    type: Literal["tool_use"]
    id: CallId
    name: FunctionName
    input: BoundedObject


_CHECK_TEXT, _ = served_types("text")
TextBlocks = Annotated[
    list[Annotated[TextBlock, _CHECK_TEXT]],
    FirstErrorOnly,
    Field(max_length=MAX_BLOCKS, description="A string or a list of text blocks."),
    NullableTextParts,
]


class ToolResultBlock(WithExtras):
    """`is_error` makes no difference: the text says what went wrong."""

    type: Literal["tool_result"]
    tool_use_id: CallId
    content: TextBlocks = Field(default_factory=list)
    is_error: bool = False


Block = TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock | ToolResultBlock
_CHECK, _CHOOSE = served_types("text", "thinking", "redacted_thinking", "tool_use", "tool_result")
_Tagged = Annotated[
    Annotated[
        Annotated[TextBlock, Tag("[text]")]
        | Annotated[ThinkingBlock, Tag("[thinking]")]
        | Annotated[RedactedThinkingBlock, Tag("[redacted_thinking]")]
        | Annotated[ToolUseBlock, Tag("[tool_use]")]
        | Annotated[ToolResultBlock, Tag("[tool_result]")],
        _CHOOSE,
    ],
    _CHECK,
]


_OF_ASSISTANT = (ThinkingBlock, RedactedThinkingBlock, ToolUseBlock)


class InputMessage(WithExtras):
    role: Literal["user", "assistant", "system"]
    content: Annotated[
        list[_Tagged],
        FirstErrorOnly,
        Field(max_length=MAX_BLOCKS, description="A string or a list of content blocks."),
        NullableTextParts,
    ]

    @model_validator(mode="after")
    def _blocks_of_the_role(self) -> "InputMessage":
        """Blocks that the role cannot have would be lost."""
        others, owner = (ToolResultBlock, "user") if self.role == "assistant" else (_OF_ASSISTANT, "assistant")
        for block in self.content:
            if isinstance(block, others):
                raise PydanticCustomError("wrong_role", f"{block.type} is for the {owner}")
        return self


InputMessages = Annotated[list[InputMessage], FirstErrorOnly, Field(min_length=1, max_length=MAX_MESSAGES)]


def joined(blocks: Sequence[TextBlock], between: str = "") -> str:
    return between.join(block.text for block in blocks)


def ignored_message_fields(messages: Sequence[InputMessage]) -> Iterator[str]:
    """The paths of fields that have no effect."""
    for index, message in enumerate(messages):
        yield from message.ignored_fields(f"messages.{index}")
        for number, block in enumerate(message.content):
            for path in block.ignored_fields(f"messages.{index}.content.{number}"):
                if path.rpartition(".")[2] not in HARMLESS:
                    yield path
