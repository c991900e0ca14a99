"""Tools and tool calls in OpenAI's shape."""

import json
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from model.text.chat_formats.json_values import MAX_DEPTH, is_deeper
from server.api.bounded_json import BoundedObject
from server.api.request_model import FirstErrorOnly, Text, WithExtras
from server.chat.answer import ToolCallDelta
from server.chat.request import Tool, ToolCall, ToolChoice, ToolMode
from server.errors import InvalidRequestError

MAX_TOOLS = 256
MAX_CALLS = 128  # of one message

_FUNCTION_NAME = r"^[A-Za-z0-9_.:-]{1,128}$"


def _function_name(name: str) -> str:
    if not re.fullmatch(_FUNCTION_NAME, name):
        raise PydanticCustomError("function_name", "give a name of 1 to 128 letters, digits and _ . : - without spaces")
    return name


FunctionName = Annotated[str, AfterValidator(_function_name), Field(json_schema_extra={"pattern": _FUNCTION_NAME})]
CallId = Annotated[str, Field(max_length=256)]


def _functions_only(kind: Any) -> Any:
    if isinstance(kind, str) and kind != "function":
        raise PydanticCustomError("unsupported_parameter", "only tools of type function are served")
    return kind


ToolType = Annotated[Literal["function"], BeforeValidator(_functions_only)]


class FunctionDefinition(WithExtras):
    """`parameters` is a JSON schema; left out, the function takes no arguments."""

    name: FunctionName
    description: Text | None = None
    parameters: BoundedObject | None = None
    strict: Annotated[bool, Field(description="true: the arguments of a call follow the schema.")] | None = None


class ChatTool(WithExtras):
    type: ToolType = "function"
    function: FunctionDefinition

    def tool(self) -> Tool:
        function = self.function
        return Tool(function.name, function.description or "", function.parameters or {}, bool(function.strict))


class NamedFunction(WithExtras):
    name: FunctionName


class NamedToolChoice(WithExtras):
    type: ToolType = "function"
    function: NamedFunction


def _known_choice(value: Any) -> Any:
    if not isinstance(value, dict) and value not in ("none", "auto", "required"):
        raise PydanticCustomError(
            "tool_choice", 'give "none", "auto", "required" or {{"type": "function", "function": {{"name": ...}}}}'
        )
    return value


ToolDefinitions = Annotated[
    list[ChatTool], FirstErrorOnly, Field(max_length=MAX_TOOLS, description="Functions that the model may call.")
]
ToolChoiceField = Annotated[Literal["none", "auto", "required"] | NamedToolChoice, BeforeValidator(_known_choice)]


class ToolFields(BaseModel):
    """What a chat may call."""

    tools: ToolDefinitions | None = None
    tool_choice: ToolChoiceField | None = None
    parallel_tool_calls: Annotated[bool, Field(description="false: at most one call.")] | None = None

    def chat_tools(self) -> tuple[Tool, ...]:
        return tuple(definition.tool() for definition in self.tools or ())

    def chat_tool_choice(self) -> ToolChoice:
        """Raises InvalidRequestError for a choice that the tools do not have."""
        choice = self.tool_choice or "auto"
        if isinstance(choice, NamedToolChoice):
            name = choice.function.name
            if name not in {tool.name for tool in self.chat_tools()}:
                raise InvalidRequestError(f"tool_choice names {name}, which is not in tools.", param="tool_choice")
            return ToolChoice(ToolMode.NAMED, name)
        if choice == "required" and not self.tools:
            raise InvalidRequestError("tool_choice required needs tools.", param="tool_choice")
        return ToolChoice(ToolMode(choice))


# Calls in messages


def _as_text(arguments: Any) -> Any:
    if not isinstance(arguments, dict):
        return arguments
    if is_deeper(arguments, MAX_DEPTH):
        raise PydanticCustomError("too_deep", f"at most {MAX_DEPTH} lists and objects can be in each other")
    return json.dumps(arguments, ensure_ascii=False)


class FunctionCall(WithExtras):
    """`arguments` is the text of a JSON object."""

    name: FunctionName
    arguments: Annotated[Text, BeforeValidator(_as_text)] = "{}"


class MessageToolCall(WithExtras):
    id: CallId = ""
    type: ToolType = "function"
    function: FunctionCall

    def call(self) -> ToolCall:
        return ToolCall(self.id, self.function.name, self.function.arguments)


MessageToolCalls = Annotated[list[MessageToolCall], FirstErrorOnly, Field(max_length=MAX_CALLS)]


class AnswerFunctionCall(BaseModel):
    name: str
    arguments: str


class AnswerToolCall(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: AnswerFunctionCall


def answer_tool_call(call: ToolCall) -> AnswerToolCall:
    return AnswerToolCall(id=call.id, function=AnswerFunctionCall(name=call.name, arguments=call.arguments))


def streamed_tool_call(call: ToolCallDelta) -> dict[str, Any]:
    """The first piece of a call has its id and name, the others only arguments."""
    if call.id is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments}
    return {"index": call.index, "id": call.id, "type": "function", "function": function}
