"""A long text answered part by part: several generations that read as one.

A model that learnt from single sentences translates single sentences best. The parts are computed side by side, a few
ahead of the reader, and come out in the order of the text.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

from server.engine.types import FinishReason
from server.errors import OverloadedError
from server.generation.prompt import Prompt
from server.generation.stream import Generation, GenerationResult, TextDelta, Usage, fold

AHEAD = 32  # parts of a request that are submitted before the reader comes to them
RETRY_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a text with a prompt of its own; `before` is written before its answer."""

    before: str
    prompt: Prompt


@dataclass(frozen=True, slots=True)
class SegmentedPrompt:
    """All parts of a text, at least one, and what is written after the last answer.

    `ahead`: how many parts may run at once. Texts of one request share AHEAD, so that it leaves room for others.
    """

    segments: tuple[Segment, ...]
    after: str = ""
    ahead: int = AHEAD


class SegmentedGeneration:
    """Reads like one Generation. It is accepted with its first part; later parts wait for room where there is none."""

    def __init__(self, prompt: SegmentedPrompt, start: Callable[[int, Prompt], Generation]) -> None:
        """`start(index, prompt)` submits a part. Raises what it raises for the first."""
        self._prompt = prompt
        self._start = start
        self._started = [start(0, prompt.segments[0].prompt)]

    @property
    def usage(self) -> Usage:
        """Counts so far, over all parts."""
        parts = [generation.usage for generation in self._started]
        return Usage(
            sum(part.prompt_tokens for part in parts),
            sum(part.completion_tokens for part in parts),
            sum(part.cached_tokens for part in parts),
        )

    def abort(self) -> None:
        for generation in self._started:
            generation.abort()

    def withdraw(self) -> None:
        for generation in self._started:
            generation.withdraw()

    async def deltas(self) -> AsyncIterator[TextDelta]:
        """Yield the text as it grows, part after part; `length` at the end where any part was cut off.

        A stop string ends the whole text: parts that run ahead are withdrawn.
        """
        reason = FinishReason.STOP
        for index, segment in enumerate(self._prompt.segments):
            self._start_ahead_of(index)
            if segment.before:
                yield TextDelta(segment.before)
            await self._until_started(index)
            async for delta in self._started[index].deltas():
                if delta.finish_reason is FinishReason.LENGTH:
                    reason = FinishReason.LENGTH
                yield replace(delta, finish_reason=None)
            if self._started[index].stopped:
                self.withdraw()
                yield TextDelta("", finish_reason=reason)
                return
        yield TextDelta(self._prompt.after, finish_reason=reason)

    async def result(self) -> GenerationResult:
        """Wait for the end and return the whole. Raises as `deltas` does."""
        deltas = [delta async for delta in self.deltas()]
        return fold(deltas, self.usage)

    async def _until_started(self, index: int) -> None:
        while len(self._started) <= index:
            await asyncio.sleep(RETRY_SECONDS)
            self._start_ahead_of(index)

    def _start_ahead_of(self, index: int) -> None:
        """Submit the next parts, as many as are wanted and the queue takes."""
        last = min(index + self._prompt.ahead, len(self._prompt.segments))
        try:
            for number in range(len(self._started), last):
                self._started.append(self._start(number, self._prompt.segments[number].prompt))
        except OverloadedError:
            return  # what runs makes room
