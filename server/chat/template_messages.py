"""A conversation in the form that chat templates take, also for templates that know no tools."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from model.text.chat_formats.chat_format import ChatFormat
from model.text.chat_formats.families import CallIds
from model.text.chat_template import thinking_switch
from model.text.task_prompts import Message
from server.chat.request import ChatMessage, ChatRequest, Thinking, Tool, ToolCall

TemplateCall = dict[str, Any]

_INSTRUCTION = """\
You can call these functions:
{tools}
To call one, answer with nothing but a JSON object: {{"name": <function>, "arguments": <object>}}"""


def template_messages(request: ChatRequest, chat_format: ChatFormat, uses: Callable[[str], bool]) -> list[Message]:
    """The messages as transformers documents them. `uses` says whether the template names a variable.

    A template without tools gets them in the system message, calls as text of the assistant, results as text of the
    user.
    """
    messages = list(request.messages)
    if not uses("tools") and request.callable_tools:
        messages = _with_system_text(messages, tool_instruction(request.callable_tools))
    if not uses("tool_calls"):
        messages = [_plain(message, chat_format) for message in messages]
    number = 0
    calls: dict[str | None, TemplateCall] = {}  # by id: the last one, since some clients count anew in each turn
    found = []
    for message in messages:
        written = [_template_call(call, place, chat_format) for place, call in enumerate(message.tool_calls, number)]
        number += len(written)
        calls.update(zip((call.id for call in message.tool_calls), written, strict=True))
        found.append(_template_message(message, written, calls.get(message.tool_call_id)))
    return found


def tool_instruction(tools: Sequence[Tool]) -> str:
    """The description of the tools for a model whose chat template has none."""
    return _INSTRUCTION.format(tools="\n".join(_dumps(tool["function"]) for tool in template_tools(tools)))


def template_tools(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    return [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": _parameters(tool)},
        }
        for tool in tools
    ]


def thinking_variables(thinking: Thinking) -> dict[str, Any]:
    """The variables that templates have for it."""
    switch = {} if thinking.enabled is None else thinking_switch(enabled=thinking.enabled)
    return switch if thinking.effort is None else switch | {"reasoning_effort": thinking.effort}


def _parameters(tool: Tool) -> dict[str, Any]:
    """Templates look for `properties`, also of a function without arguments."""
    return {"type": "object", "properties": {}, **tool.parameters}


def _with_system_text(messages: list[ChatMessage], text: str) -> list[ChatMessage]:
    if messages and messages[0].role == "system":
        text = f"{messages.pop(0).content}\n\n{text}"
    return [ChatMessage("system", text), *messages]


def _plain(message: ChatMessage, chat_format: ChatFormat) -> ChatMessage:
    """A message without calls: they are written into its content."""
    if message.role == "tool":
        return ChatMessage("user", f"Result of the call: {message.content}")
    if not message.tool_calls:
        return message
    written = chat_format.write_calls([(call.name, call.arguments_object) for call in message.tool_calls])
    content = f"{message.content}\n{written}" if message.content else written
    return ChatMessage(message.role, content, reasoning=message.reasoning)


def _template_message(message: ChatMessage, calls: list[TemplateCall], answered: TemplateCall | None) -> Message:
    """`calls` are those of the message; `answered` is the call whose result it is."""
    fields: Message = {"role": message.role, "content": message.content}
    if message.reasoning:
        fields |= {"reasoning_content": message.reasoning, "thinking": message.reasoning}
    if calls:
        fields["tool_calls"] = calls
    if message.role == "tool":
        fields["tool_call_id"] = answered["id"] if answered else message.tool_call_id or ""
        fields["name"] = message.name or (answered["function"]["name"] if answered else "")
    return fields


def _template_call(call: ToolCall, number: int, chat_format: ChatFormat) -> TemplateCall:
    function = {"name": call.name, "arguments": call.arguments_object}
    return {"id": _template_call_id(call, number, chat_format), "type": "function", "function": function}


def _template_call_id(call: ToolCall, number: int, chat_format: ChatFormat) -> str:
    """The id that the template accepts: Mistral's has nine characters, Kimi's is the name with a number."""
    if chat_format.call_ids is CallIds.NINE_CHARACTERS:
        is_short = len(call.id) == 9 and call.id.isalnum()
        return call.id if is_short else hashlib.sha256(call.id.encode()).hexdigest()[:9]
    return f"functions.{call.name}:{number}" if chat_format.call_ids is CallIds.NUMBERED_NAMES else call.id


def _dumps(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)
