"""The body of /v1/responses."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from server.api.bounded_json import BoundedObject
from server.api.chunks import StreamOptions
from server.api.request_model import FirstErrorOnly, ModelName, Text, WithExtras, refused_unless, served_types
from server.api.responses.conversation import chat_messages
from server.api.responses.input_items import InputItems, ignored_item_fields
from server.api.sampling import MaxTokens, NumLogprobs, SamplingFields
from server.api.tools import MAX_TOOLS, FunctionName
from server.chat.request import ChatRequest, Thinking, Tool, ToolChoice, ToolMode
from server.errors import InvalidRequestError
from server.generation.grammar import AnswerGrammar, JsonSchemaGrammar

_NOT_STORED = "responses are not stored here: send the whole conversation as input"
_LOGPROBS = "message.output_text.logprobs"
_HARMLESS_INCLUDES = ("reasoning.encrypted_content",)  # clients ask for it so that they need no stored responses


class FunctionTool(WithExtras):
    """`parameters` is a JSON schema; left out, the function takes no arguments."""

    type: Literal["function"]
    name: FunctionName
    description: Text | None = None
    parameters: BoundedObject | None = None
    strict: Annotated[bool, Field(description="true: the arguments of a call follow the schema.")] | None = None

    def tool(self) -> Tool:
        return Tool(self.name, self.description or "", self.parameters or {}, bool(self.strict))


class FunctionReference(WithExtras):
    type: Literal["function"]
    name: FunctionName


class FunctionChoice(FunctionReference):
    """A call of that function."""


class AllowedTools(WithExtras):
    """Only these of the tools; `required`: at least one call."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[FunctionReference], FirstErrorOnly, Field(max_length=MAX_TOOLS)]


class TextFormat(WithExtras):
    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, Field(max_length=256)] | None = None
    schema_: BoundedObject | None = Field(default=None, alias="schema")
    strict: bool | None = None
    description: Text | None = None


class TextField(WithExtras):
    format: TextFormat | None = None
    verbosity: Annotated[str, Field(max_length=64, description="Ignored.")] | None = None


class ReasoningField(WithExtras):
    effort: Annotated[str, Field(max_length=64, description="A variable of the chat template.")] | None = None
    summary: Annotated[str, Field(max_length=64, description="Ignored: all of the reasoning is shown.")] | None = None
    generate_summary: Annotated[str, Field(max_length=64, description="Ignored.")] | None = None


def _known_choice(value: Any) -> Any:
    kind = value.get("type") if isinstance(value, dict) else value
    if kind not in ("none", "auto", "required", "function", "allowed_tools"):
        raise PydanticCustomError(
            "tool_choice", "give none, auto, required, or an object of the type function or allowed_tools"
        )
    return value


def _choice_tag(value: Any) -> str:
    if not isinstance(value, dict):
        return "[mode]"
    return "[allowed]" if value["type"] == "allowed_tools" else "[function]"


ToolChoiceField = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("[mode]")]
    | Annotated[FunctionChoice, Tag("[function]")]
    | Annotated[AllowedTools, Tag("[allowed]")],
    Discriminator(_choice_tag),
    BeforeValidator(_known_choice),
]
_CHECK_TOOL, _ = served_types("function")


class ResponsesRequest(SamplingFields):
    model: ModelName | None = None
    input: InputItems
    instructions: Text | None = None
    max_output_tokens: MaxTokens | None = None
    tools: Annotated[list[Annotated[FunctionTool, _CHECK_TOOL]], FirstErrorOnly, Field(max_length=MAX_TOOLS)] | None = (
        None
    )
    tool_choice: ToolChoiceField | None = None
    parallel_tool_calls: Annotated[bool, Field(description="false: at most one call.")] | None = None
    text: TextField | None = None
    reasoning: ReasoningField | None = None
    include: (
        Annotated[
            list[Annotated[str, Field(max_length=256)]],
            FirstErrorOnly,
            Field(max_length=32, description=f"{_LOGPROBS}: with log-probabilities; others are ignored."),
        ]
        | None
    ) = None
    top_logprobs: Annotated[NumLogprobs, Field(description=f"With {_LOGPROBS} in `include`.")] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    prompt: Annotated[BoundedObject, refused_unless("prompts are not stored here: send the text as input")] | None = (
        Field(default=None, description="Refused.")
    )
    previous_response_id: Annotated[Any, refused_unless(_NOT_STORED), Field(description="Refused.")] = None
    conversation: Annotated[Any, refused_unless(_NOT_STORED), Field(description="Refused.")] = None

    @model_validator(mode="after")
    def _one_limit(self) -> "ResponsesRequest":
        if self.max_output_tokens is not None:
            self.max_tokens = self.max_output_tokens
        return self

    @property
    def ignored_fields(self) -> tuple[str, ...]:
        return (*super().ignored_fields, *self._ignored_includes(), *ignored_item_fields(self.input))

    def _ignored_includes(self) -> Iterator[str]:
        if any(name not in (*_HARMLESS_INCLUDES, _LOGPROBS) for name in self.include or ()):
            yield "include"
        if self.top_logprobs and self.num_logprobs is None:
            yield "top_logprobs"

    @property
    def num_logprobs(self) -> int | None:
        """How many alternatives per token; None: no log-probabilities."""
        return (self.top_logprobs or 0) if _LOGPROBS in (self.include or ()) else None

    def chat_request(self) -> ChatRequest:
        """Raises InvalidRequestError for a tool choice that the tools do not have."""
        effort = self.reasoning.effort if self.reasoning else None
        return ChatRequest(
            chat_messages(self.instructions, self.input),
            tools=tuple(definition.tool() for definition in self.allowed_tools()),
            tool_choice=self._tool_choice(),
            parallel_tool_calls=self.parallel_tool_calls is not False,
            response_grammar=self._grammar(),
            thinking=Thinking(False if effort == "none" else None, effort=effort),
        )

    def allowed_tools(self) -> list[FunctionTool]:
        """The tools that may be called. Raises InvalidRequestError if the choice names others."""
        tools, choice = self.tools or [], self.tool_choice
        named = [tool.name for tool in choice.tools] if isinstance(choice, AllowedTools) else []
        named += [choice.name] if isinstance(choice, FunctionChoice) else []
        if unknown := set(named).difference(tool.name for tool in tools):
            raise InvalidRequestError(f"tool_choice names {min(unknown)}, which is not in tools.", param="tool_choice")
        return [tool for tool in tools if tool.name in named] if isinstance(choice, AllowedTools) else tools

    def _tool_choice(self) -> ToolChoice:
        choice = self.tool_choice or "auto"
        if isinstance(choice, FunctionChoice):
            return ToolChoice(ToolMode.NAMED, choice.name)
        mode = ToolMode(choice.mode if isinstance(choice, AllowedTools) else choice)
        if mode is ToolMode.REQUIRED and not self.allowed_tools():
            raise InvalidRequestError("tool_choice: required needs tools.", param="tool_choice")
        return ToolChoice(mode)

    def _grammar(self) -> AnswerGrammar | None:
        chosen = self.text.format if self.text else None
        if chosen is None or chosen.type == "text":
            return None
        if chosen.type == "json_schema" and chosen.schema_ is None:
            raise InvalidRequestError("text.format: json_schema needs a schema.", param="text.format.schema")
        return JsonSchemaGrammar("text.format.schema", chosen.schema_ or {"type": "object"})
