"""Answers as blocks: each has its own text, however the answer is cut into deltas."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from server.chat.answer import ChatDelta, ChatFinishReason, ToolCallDelta
from server.chat.blocks import BlockKind, whole_answer
from server.chat.generation import ChatGeneration
from server.generation.stream import FinishedGeneration

BEGINNING = ToolCallDelta(0, "a", "f", "{")
REST = ToolCallDelta(0, arguments="}")
SECOND = ToolCallDelta(1, "b", "g", "[]")


class GivenAnswer(ChatGeneration):
    def __init__(self, *deltas: ChatDelta) -> None:
        super().__init__(FinishedGeneration(""))
        self._deltas = deltas

    async def deltas(self) -> AsyncIterator[ChatDelta]:
        for delta in self._deltas:
            yield delta


@pytest.mark.parametrize(
    "deltas",
    [
        (ChatDelta(tool_calls=(BEGINNING, REST)), ChatDelta("and"), ChatDelta(tool_calls=(SECOND,))),
        (ChatDelta(tool_calls=(BEGINNING,)), ChatDelta("and", tool_calls=(REST, SECOND))),
    ],
)
def test_content_after_a_call_does_not_come_into_its_arguments(deltas: tuple[ChatDelta, ...]) -> None:
    answer = GivenAnswer(*deltas, ChatDelta(finish_reason=ChatFinishReason.TOOL_CALLS))
    blocks = [(block.kind, block.name, block.text) for block in asyncio.run(whole_answer(answer)).blocks]
    assert blocks == [
        (BlockKind.TOOL_CALL, "f", "{}"),
        (BlockKind.CONTENT, "", "and"),
        (BlockKind.TOOL_CALL, "g", "[]"),
    ]
