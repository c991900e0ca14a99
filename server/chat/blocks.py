"""An answer as blocks: pieces of reasoning, content or one tool call, each with a beginning and an end.

The APIs of Anthropic (content blocks) and of OpenAI's responses (output items) stream answers so.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from server.chat.answer import ChatDelta, ChatFinishReason, ChatResult, ToolCallDelta
from server.chat.generation import ChatGeneration
from server.generation.logprobs import DecodedLogprobs


class BlockKind(StrEnum):
    REASONING = "reasoning"
    CONTENT = "content"
    TOOL_CALL = "tool_call"


@dataclass(slots=True)
class AnswerBlock:
    """`text` is what there is so far; of a tool call its arguments. `index` counts the blocks of an answer.

    `logprobs` are those of the tokens of content, if they were asked for.
    """

    index: int
    kind: BlockKind
    text: str = ""
    call_id: str = ""
    name: str = ""
    logprobs: list[DecodedLogprobs] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class BlockStart:
    block: AnswerBlock


@dataclass(frozen=True, slots=True)
class BlockDelta:
    block: AnswerBlock
    text: str
    logprobs: tuple[DecodedLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class BlockEnd:
    """`is_cut_off`: it is the last of an answer that was cut off."""

    block: AnswerBlock
    is_cut_off: bool = False


@dataclass(frozen=True, slots=True)
class AnswerEnd:
    reason: ChatFinishReason
    blocks: list[AnswerBlock]


BlockEvent = BlockStart | BlockDelta | BlockEnd | AnswerEnd


async def block_events(answer: ChatGeneration) -> AsyncIterator[BlockEvent]:
    """The events of an answer; only the last one is an AnswerEnd. Raises what `ChatGeneration.deltas` raises."""
    builder = _BlockBuilder()
    async for delta in answer.deltas():
        for event in builder.take(delta):
            yield event


async def whole_answer(answer: ChatGeneration) -> AnswerEnd:
    """Wait for the end of an answer. Raises what `block_events` raises."""
    async for event in block_events(answer):
        last = event
    assert isinstance(last, AnswerEnd)
    return last


def blocks_of(result: ChatResult) -> list[AnswerBlock]:
    """The blocks of a whole answer: reasoning, content, calls."""
    blocks = [(BlockKind.REASONING, result.reasoning), (BlockKind.CONTENT, result.content)]
    found = [(kind, text, "", "") for kind, text in blocks if text]
    found += [(BlockKind.TOOL_CALL, call.arguments, call.id, call.name) for call in result.tool_calls]
    return [AnswerBlock(index, *fields) for index, fields in enumerate(found)]


@dataclass(slots=True)
class _BlockBuilder:
    blocks: list[AnswerBlock] = field(default_factory=list)
    is_open: bool = False
    call_index: int = -1  # of the newest call
    unsent: tuple[DecodedLogprobs, ...] = ()  # of tokens that have made no text yet

    def take(self, delta: ChatDelta) -> Iterator[BlockEvent]:
        self.unsent += () if delta.in_reasoning else delta.logprobs
        open_call = [call for call in delta.tool_calls if call.index == self.call_index]
        yield from self._calls(open_call)  # its last arguments are before the text of the same delta
        if delta.reasoning:
            yield from self._text(BlockKind.REASONING, delta.reasoning)
        if delta.content:
            yield from self._text(BlockKind.CONTENT, delta.content, self.unsent)
        if delta.reasoning or delta.content or delta.tool_calls:
            self.unsent = ()
        yield from self._calls(delta.tool_calls[len(open_call) :])
        if delta.finish_reason is not None:
            yield from self._end(delta.finish_reason.is_cut_off)
            yield AnswerEnd(delta.finish_reason, self.blocks)

    def _calls(self, calls: Sequence[ToolCallDelta]) -> Iterator[BlockEvent]:
        for call in calls:
            if call.index != self.call_index:
                self.call_index = call.index
                block = AnswerBlock(len(self.blocks), BlockKind.TOOL_CALL, "", call.id or "", call.name or "")
                yield from self._begin(block)
            if call.arguments:
                yield self._add(call.arguments)

    def _text(self, kind: BlockKind, text: str, logprobs: tuple[DecodedLogprobs, ...] = ()) -> Iterator[BlockEvent]:
        if not self.is_open or self.blocks[-1].kind is not kind:
            yield from self._begin(AnswerBlock(len(self.blocks), kind))
        yield self._add(text, logprobs)

    def _begin(self, block: AnswerBlock) -> Iterator[BlockEvent]:
        yield from self._end()
        self.blocks.append(block)
        self.is_open = True
        yield BlockStart(block)

    def _add(self, text: str, logprobs: tuple[DecodedLogprobs, ...] = ()) -> BlockDelta:
        self.blocks[-1].text += text
        self.blocks[-1].logprobs += logprobs
        return BlockDelta(self.blocks[-1], text, logprobs)

    def _end(self, is_cut_off: bool = False) -> Iterator[BlockEvent]:
        if self.is_open:
            self.is_open = False
            yield BlockEnd(self.blocks[-1], is_cut_off)
