"""Answers in Anthropic's shape: content blocks, and the events of a stream."""

from typing import Any, Literal

from pydantic import BaseModel

from server.api.response_model import Warnings
from server.api.sse import Event, Events, StreamFormat, named_event
from server.chat.answer import ChatFinishReason
from server.chat.blocks import AnswerBlock, AnswerEnd, BlockDelta, BlockEnd, BlockKind, BlockStart, block_events
from server.chat.generation import ChatGeneration
from server.chat.request import ToolCall
from server.generation.stream import Usage

PING = {"type": "ping"}
SIGNATURE = "unsigned"  # clients do not send thinking back that has no signature

EVENTS = StreamFormat(
    "text/event-stream", named_event, lambda error: error.body("/v1/messages"), keep_alive=named_event(PING)
)


class MessageUsage(BaseModel):
    """`input_tokens` are those of the prompt that were not in the prefix cache."""

    input_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int
    output_tokens: int


class MessageAnswer(BaseModel):
    """`content`: blocks of the types thinking, text and tool_use."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None
    stop_sequence: str | None
    usage: MessageUsage
    warnings: Warnings = []


def message_usage(usage: Usage) -> MessageUsage:
    return MessageUsage(
        input_tokens=usage.prompt_tokens - usage.cached_tokens,
        cache_read_input_tokens=usage.cached_tokens,
        output_tokens=usage.completion_tokens,
    )


def stop_reason(reason: ChatFinishReason, stop_string: str | None) -> str:
    if reason is ChatFinishReason.TOOL_CALLS:
        return "tool_use"
    if reason.is_cut_off:  # their API has no reason of its own for deadlines
        return "max_tokens"
    return "end_turn" if stop_string is None else "stop_sequence"


def content_block(block: AnswerBlock) -> Event:
    """A whole block."""
    if block.kind is BlockKind.REASONING:
        return {"type": "thinking", "thinking": block.text, "signature": SIGNATURE}
    if block.kind is BlockKind.CONTENT:
        return {"type": "text", "text": block.text}
    arguments = ToolCall(block.call_id, block.name, block.text).arguments_object
    return {"type": "tool_use", "id": block.call_id, "name": block.name, "input": arguments}


async def message_events(start: MessageAnswer, answer: ChatGeneration) -> Events:
    """The events of a stream, in the order that Anthropic's clients expect. `start` is the message without content."""
    yield {"type": "message_start", "message": start.model_dump(mode="json")}
    async for event in block_events(answer):
        match event:
            case BlockStart(block):
                yield {"type": "content_block_start", "index": block.index, "content_block": _empty_block(block)}
                if block.index == 0:
                    yield PING
            case BlockDelta(block, text):
                yield _delta_event(block, _delta(block, text))
            case BlockEnd(block):
                if block.kind is BlockKind.REASONING:
                    yield _delta_event(block, {"type": "signature_delta", "signature": SIGNATURE})
                yield {"type": "content_block_stop", "index": block.index}
            case AnswerEnd(reason):
                stop = answer.stop_string
                delta = {"stop_reason": stop_reason(reason, stop), "stop_sequence": stop}
                yield {"type": "message_delta", "delta": delta, "usage": message_usage(answer.usage).model_dump()}
    yield {"type": "message_stop"}


def _empty_block(block: AnswerBlock) -> Event:
    if block.kind is BlockKind.REASONING:
        return {"type": "thinking", "thinking": "", "signature": ""}
    if block.kind is BlockKind.CONTENT:
        return {"type": "text", "text": ""}
    return {"type": "tool_use", "id": block.call_id, "name": block.name, "input": {}}


def _delta(block: AnswerBlock, text: str) -> Event:
    if block.kind is BlockKind.REASONING:
        return {"type": "thinking_delta", "thinking": text}
    if block.kind is BlockKind.CONTENT:
        return {"type": "text_delta", "text": text}
    return {"type": "input_json_delta", "partial_json": text}


def _delta_event(block: AnswerBlock, delta: Event) -> Event:
    return {"type": "content_block_delta", "index": block.index, "delta": delta}
