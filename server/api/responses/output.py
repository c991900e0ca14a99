"""Answers of /v1/responses: the response object and its output items."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from server.api.logprobs import chat_logprobs
from server.api.responses.fields import ResponsesRequest
from server.api.sse import Event
from server.chat.answer import ChatFinishReason
from server.chat.blocks import AnswerBlock, BlockKind
from server.chat.generation import ChatGeneration
from server.generation.logprobs import DecodedLogprobs

Status = Literal["in_progress", "completed", "incomplete", "failed"]
ID_PREFIXES = {BlockKind.REASONING: "rs", BlockKind.CONTENT: "msg", BlockKind.TOOL_CALL: "fc"}

_TOOL_DEFAULTS: Event = {"description": None, "parameters": {}, "strict": False}


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """What all forms of one response share. `created` is in seconds since 1970."""

    request_id: str
    created: int
    model: str
    body: ResponsesRequest

    def response(self, status: Status, output: Sequence[Event] = (), **changes: Any) -> Event:
        """The response object, which repeats the settings of the request."""
        body = self.body
        found = {
            "id": f"resp_{self.request_id}",
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "model": self.model,
            "output": list(output),
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
            "store": False,
            "temperature": body.temperature,
            "text": {"format": _text_format(body)},
            "tool_choice": _tool_choice(body),
            "tools": [_tool(tool) for tool in body.tools or ()],
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": None,
            "metadata": {},
        }
        warnings = {"warnings": body.warnings} if body.warnings else {}
        return found | changes | warnings

    def finished(self, reason: ChatFinishReason, blocks: Sequence[AnswerBlock], answer: ChatGeneration) -> Event:
        """The response at its end. It is incomplete if it was cut off, and so is its last item."""
        cut = reason is ChatFinishReason.LENGTH
        output = [self.item(block, "completed") for block in blocks]
        if cut and output:
            output[-1]["status"] = "incomplete"
        details = {"reason": "max_output_tokens"} if cut else None
        status: Status = "incomplete" if cut else "completed"
        return self.response(status, output, incomplete_details=details, usage=usage(answer))

    def item_id(self, block: AnswerBlock) -> str:
        return f"{ID_PREFIXES[block.kind]}_{self.request_id}_{block.index}"

    def item(self, block: AnswerBlock, status: Status) -> Event:
        """An output item. In progress it is empty."""
        begun = status == "in_progress"
        item = {"id": self.item_id(block), "status": status}
        if block.kind is BlockKind.TOOL_CALL:
            call = {"call_id": block.call_id, "name": block.name, "arguments": "" if begun else block.text}
            return {**item, "type": "function_call", **call}
        content = [] if begun else [part(block, block.text)]
        if block.kind is BlockKind.REASONING:
            return {**item, "type": "reasoning", "summary": [], "content": content}
        return {**item, "type": "message", "role": "assistant", "content": content}


def part(block: AnswerBlock, text: str) -> Event:
    """The one content part of a message, or of reasoning."""
    if block.kind is BlockKind.REASONING:
        return {"type": "reasoning_text", "text": text}
    scores = token_logprobs(block.logprobs) if text else []  # none of a part that begins
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": scores}


def token_logprobs(logprobs: Sequence[DecodedLogprobs]) -> list[Event]:
    found: list[Event] = chat_logprobs(logprobs).model_dump()["content"]
    return found


def usage(answer: ChatGeneration) -> Event:
    counts = answer.usage
    return {
        "input_tokens": counts.prompt_tokens,
        "input_tokens_details": {"cached_tokens": counts.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": counts.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": counts.reasoning_tokens},
        "total_tokens": counts.prompt_tokens + counts.completion_tokens,
    }


def _text_format(body: ResponsesRequest) -> Event:
    chosen = body.text.format if body.text else None
    return {"type": "text"} if chosen is None else chosen.model_dump(by_alias=True, exclude_none=True)


def _tool_choice(body: ResponsesRequest) -> Any:
    choice = body.tool_choice or "auto"
    return choice if isinstance(choice, str) else choice.model_dump(exclude_none=True)


def _tool(tool: Any) -> Event:
    found: Event = tool.model_dump(exclude_none=True)
    return found | {name: value for name, value in _TOOL_DEFAULTS.items() if name not in found}
