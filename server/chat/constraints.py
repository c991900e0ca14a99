"""What a chat request asks of its answer, as a grammar: calls that must be made, arguments that follow their schema."""

import asyncio
from dataclasses import dataclass
from typing import Any

from model.text.chat_formats.chat_format import ChatFormat, Constraints, PromptEnd
from server.chat.request import ChatRequest, Tool, ToolMode
from server.errors import InvalidRequestError
from server.generation.grammar import AnswerGrammar, lark_text
from server.generation.json_schema import SchemaError, constrained_schema
from server.generation.service import GenerationService

_SAYS_NOTHING = {"type", "properties", "required", "title", "description", "$schema"}
_ANY_OBJECT = {"type": "object"}
_ANSWER_ALONE = "start: @answer\n"


@dataclass(frozen=True, slots=True)
class _CallGrammar(AnswerGrammar):
    """A grammar of answers with calls."""

    lark: str

    def text(self) -> str:
        return lark_text(self.lark)


async def answer_grammar(
    service: GenerationService, chat_format: ChatFormat, request: ChatRequest, end: PromptEnd
) -> str | None:
    """The grammar for SamplingParams, compiled; None if any answer will do.

    Raises InvalidRequestError for a schema that cannot be used.
    """

    def written() -> str | None:
        return chat_format.grammar(_constraints(request), end)

    # Large schemas of many tools take long to check.
    lark = await asyncio.to_thread(written) if request.callable_tools else written()
    response = request.response_grammar
    if lark is None:
        return None
    if response is None:
        return await service.compile_grammar(_CallGrammar("tools", lark))
    return await service.compile_grammar(response, None if lark == _ANSWER_ALONE else lark)


def _constraints(request: ChatRequest) -> Constraints:
    """Calls that are required follow their schemas; of other calls those of strict tools do."""
    choice, has_answer = request.tool_choice, request.response_grammar is not None
    is_required = choice.mode in (ToolMode.REQUIRED, ToolMode.NAMED)
    tools = [tool for tool in request.callable_tools if choice.name in (None, tool.name)]
    if not is_required and not has_answer and not any(tool.strict for tool in tools):
        return Constraints()
    schemas = {tool.name: _schema(tool, is_required) for tool in tools}
    many = request.parallel_tool_calls and choice.mode is not ToolMode.NAMED
    return Constraints(schemas, is_required, many, has_answer and not is_required)


def _schema(tool: Tool, is_required: bool) -> dict[str, Any]:
    """The schema that arguments follow. One that cannot be enforced is, where it need not be, any object."""
    if not tool.strict and not is_required:
        return _ANY_OBJECT
    try:
        return constrained_schema(_parameters(tool))
    except SchemaError as error:
        if not tool.strict:
            return _ANY_OBJECT
        place = f"tools.{tool.name}.parameters" + (f".{error.place}" if error.place else "")
        raise InvalidRequestError(f"{place}: {error}.", param="tools") from error


def _parameters(tool: Tool) -> dict[str, Any]:
    """The schema of an object; a function for which none are described takes no arguments."""
    is_empty = not tool.parameters.get("properties") and tool.parameters.keys() <= _SAYS_NOTHING
    closed = {"additionalProperties": False} if is_empty else {}
    return {"type": "object", "properties": {}, **tool.parameters, **closed}
