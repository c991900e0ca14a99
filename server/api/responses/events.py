"""The events of a streamed response, numbered from 0."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from server.api.responses.output import ResponseHead, Status, part, token_logprobs
from server.api.sse import Event, Events, StreamFormat, named_event, request_error
from server.chat.blocks import (
    AnswerBlock,
    AnswerEnd,
    BlockDelta,
    BlockEnd,
    BlockEvent,
    BlockKind,
    BlockStart,
    block_events,
)
from server.chat.generation import ChatGeneration
from server.errors import RequestError
from server.generation.logprobs import DecodedLogprobs


def _error(error: RequestError) -> Event:
    return {"type": "error", "code": error.code, "message": error.message, "param": error.param}


EVENTS = StreamFormat("text/event-stream", named_event, _error, keep_alive=b": keep-alive\n\n")
TEXT_EVENTS = {
    BlockKind.REASONING: "response.reasoning_text",
    BlockKind.CONTENT: "response.output_text",
    BlockKind.TOOL_CALL: "response.function_call_arguments",
}


@dataclass(slots=True)
class _EventFactory:
    head: ResponseHead
    answer: ChatGeneration
    number: int = -1

    def event(self, kind: str, **fields: object) -> Event:
        self.number += 1
        return {"type": kind, "sequence_number": self.number, **fields}

    def of(self, event: BlockEvent) -> Iterator[Event]:
        match event:
            case BlockStart(block):
                yield self._item_event("response.output_item.added", block, "in_progress")
                if block.kind is not BlockKind.TOOL_CALL:
                    yield self._part_event("response.content_part.added", block, "")
            case BlockDelta(block, text, logprobs):
                yield self._text_event("delta", block, logprobs, delta=text)
            case BlockEnd(block, is_cut_off):
                name = "arguments" if block.kind is BlockKind.TOOL_CALL else "text"
                yield self._text_event("done", block, block.logprobs, **{name: block.text})
                if block.kind is not BlockKind.TOOL_CALL:
                    yield self._part_event("response.content_part.done", block, block.text)
                status: Status = "incomplete" if is_cut_off else "completed"
                yield self._item_event("response.output_item.done", block, status)
            case AnswerEnd(reason, blocks):
                response = self.head.finished(reason, blocks, self.answer)
                yield self.event(f"response.{response['status']}", response=response)

    def _item_event(self, kind: str, block: AnswerBlock, status: Status) -> Event:
        item = self.head.item(block, status)
        return self.event(kind, output_index=block.index, item=item)

    def _part_event(self, kind: str, block: AnswerBlock, text: str) -> Event:
        return self.event(kind, **self._place(block), content_index=0, part=part(block, text))

    def _text_event(self, suffix: str, block: AnswerBlock, logprobs: Sequence[DecodedLogprobs], **text: str) -> Event:
        inside = {} if block.kind is BlockKind.TOOL_CALL else {"content_index": 0}
        scores: Event = {"logprobs": token_logprobs(logprobs)} if block.kind is BlockKind.CONTENT else {}
        return self.event(f"{TEXT_EVENTS[block.kind]}.{suffix}", **self._place(block), **inside, **text, **scores)

    def _place(self, block: AnswerBlock) -> Event:
        return {"item_id": self.head.item_id(block), "output_index": block.index}


async def response_events(head: ResponseHead, answer: ChatGeneration) -> Events:
    """From response.created to response.completed, response.incomplete or, where the engine fails, response.failed."""
    factory = _EventFactory(head, answer)
    for kind in ("response.created", "response.in_progress"):
        yield factory.event(kind, response=head.response("in_progress"))
    try:
        async for block_event in block_events(answer):
            for event in factory.of(block_event):
                yield event
    except Exception as error:
        told = {"code": "server_error", "message": request_error(error).message}
        yield factory.event("response.failed", response=head.response("failed", error=told))
