"""From a chat request to accepted generations: messages -> prompt -> generations that are read as chat answers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from model.text.chat_template import RenderOptions
from model.text.task_prompts import Message
from server.chat.generation import ChatGeneration
from server.chat.request import ChatMessage, ChatRequest, Thinking, Tool
from server.engine.types import SamplingParams
from server.generation.admission import Admission
from server.generation.prompt import Prompt
from server.generation.service import DEFAULT_OPTIONS, GenerationService
from server.generation.stream import TextOptions


class ChatService:
    """Starts chats on one model. All chat APIs use it; it knows nothing of HTTP."""

    def __init__(self, service: GenerationService) -> None:
        self._service = service

    async def prompt(self, request: ChatRequest) -> Prompt:
        """Render the conversation. Raises InvalidRequestError for what the chat template refuses."""
        messages = self._service.prompts.chat(template_messages(request.messages))
        prompt = await self._service.chat_prompt(messages, _render_options(request))
        return prompt.salted(request.cache_salt)

    def start(
        self,
        admission: Admission,
        request: ChatRequest,
        prompt: Prompt,
        sampling: SamplingParams,
        options: TextOptions = DEFAULT_OPTIONS,
        n: int = 1,
    ) -> list[ChatGeneration]:
        """Start `n` answers to a prompt that `prompt` made. Raises what Admission.start raises."""
        return [ChatGeneration(generation) for generation in admission.start([prompt], sampling, options, n)]

    def unknown_variables(self, request: ChatRequest) -> list[str]:
        """What the request asks of the chat template that the template does not know: fields of Thinking by name."""
        asked = _thinking_variables(request.thinking)
        return [name for name, value in asked.items() if value and not self._service.template_uses(name)]


def template_messages(messages: Sequence[ChatMessage]) -> list[Message]:
    """The chat template's form, as transformers documents it."""
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    return [_template_message(message, names) for message in messages]


def _template_message(message: ChatMessage, names: Mapping[str, str]) -> Message:
    fields: Message = {"role": message.role, "content": message.content}
    if message.reasoning:
        fields |= {"reasoning_content": message.reasoning, "thinking": message.reasoning}
    if message.tool_calls:
        fields["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": _arguments(call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.role == "tool":
        call_id = message.tool_call_id or ""
        fields |= {"tool_call_id": call_id, "name": message.name or names.get(call_id, "")}
    return fields


def _arguments(text: str) -> Any:
    """Templates expect an object; what is not JSON stays a text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _render_options(request: ChatRequest) -> RenderOptions:
    thinking = {name: value for name, value in _thinking_variables(request.thinking).items() if value is not None}
    tools = tuple(map(_template_tool, request.callable_tools))
    return replace(request.render, variables=thinking | dict(request.render.variables), tools=tools)


def _thinking_variables(thinking: Thinking) -> dict[str, Any]:
    return {"enable_thinking": thinking.enabled, "reasoning_effort": thinking.effort}


def _template_tool(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}
