"""What a chat API asks for, in a form that belongs to no API."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from model.text.chat_formats.json_values import parsed_or_text
from model.text.chat_template import DEFAULT_RENDER_OPTIONS, RenderOptions
from server.generation.grammar import AnswerGrammar


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. `parameters` is a JSON schema of an object.

    `strict`: the arguments of a call are made to follow the schema.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    strict: bool = False


class ToolMode(StrEnum):
    AUTO = "auto"  # the model decides
    NONE = "none"  # no calls
    REQUIRED = "required"  # at least one call
    NAMED = "named"  # a call of one tool


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether tools are called. `name` is that of the tool to call, with ToolMode.NAMED only."""

    mode: ToolMode = ToolMode.AUTO
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool. `arguments` is the text of a JSON object, as the model wrote it, perhaps cut off or broken."""

    id: str
    name: str
    arguments: str

    @property
    def arguments_object(self) -> dict[str, Any]:
        """The arguments for what takes an object only. The key of those that are none is that of Anthropic's docs.

        See "fine-grained tool streaming" in https://docs.anthropic.com.
        """
        if self.arguments.strip() in ("", "null"):
            return {}
        found = parsed_or_text(self.arguments)
        return found if isinstance(found, dict) else {"INVALID_JSON": self.arguments}


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a conversation.

    `reasoning` and `tool_calls` belong to the role "assistant"; `tool_call_id` says which call a message of the role
    "tool" answers.
    """

    role: str
    content: str = ""
    reasoning: str | None = None
    tool_calls: Sequence[ToolCall] = ()
    tool_call_id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Thinking:
    """How much the model may think. None: as the chat template has it.

    `budget` is a number of tokens after which thinking is ended; `effort` is a word such as "low".
    """

    enabled: bool | None = None
    budget: int | None = None
    effort: str | None = None


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A conversation, and what its answer may have.

    `response_grammar` is what the content has to look like; it begins after the reasoning.
    `render` has further variables of the chat template, and says how the conversation ends. Requests share prefixes
    only if they have the same `cache_salt`.
    """

    messages: Sequence[ChatMessage]
    tools: Sequence[Tool] = ()
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    response_grammar: AnswerGrammar | None = None
    thinking: Thinking = Thinking()
    render: RenderOptions = DEFAULT_RENDER_OPTIONS
    cache_salt: str | None = None

    @property
    def callable_tools(self) -> Sequence[Tool]:
        """The tools that the answer may call."""
        return () if self.tool_choice.mode is ToolMode.NONE else self.tools
