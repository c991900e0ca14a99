"""A long text that is processed segment by segment: several generations that are read as one.

A model that learnt from single sentences translates single sentences best. Segments are computed in parallel, a few
ahead of the reader, and are delivered in the order of the text.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

from server.engine.types import FinishReason
from server.errors import OverloadedError
from server.generation.prompt import Prompt
from server.generation.stream import Generation, GenerationResult, TextDelta, Usage, fewest_experts, fold

MAX_PARALLEL_SEGMENTS = 32  # of one request, the one being read included
RETRY_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a text with its own prompt; `before` is the text between the previous answer and this one."""

    before: str
    prompt: Prompt


@dataclass(frozen=True, slots=True)
class SegmentedPrompt:
    """All segments of a text, at least one, and the text after the last answer.

    `max_parallel`: how many segments may run at the same time. The texts of one request share MAX_PARALLEL_SEGMENTS.
    """

    segments: tuple[Segment, ...]
    after: str = ""
    max_parallel: int = MAX_PARALLEL_SEGMENTS

    def in_namespace(self, cache_salt: str) -> "SegmentedPrompt":
        """See Prompt.in_namespace."""
        if not cache_salt:
            return self
        segments = (replace(segment, prompt=segment.prompt.in_namespace(cache_salt)) for segment in self.segments)
        return replace(self, segments=tuple(segments))


class SegmentedGeneration:
    """Reads like one Generation. Accepted with its first segment; later ones wait for a free slot if necessary."""

    def __init__(self, prompt: SegmentedPrompt, start: Callable[[int, Prompt], Generation]) -> None:
        """`start(index, prompt)` submits a segment. Raises what it raises for the first segment."""
        self._prompt = prompt
        self._start = start
        self._started = [start(0, prompt.segments[0].prompt)]
        self._is_cancelled = False

    @property
    def usage(self) -> Usage:
        """Counts so far, summed over the segments."""
        parts = [generation.usage for generation in self._started]
        return Usage(
            sum(part.prompt_tokens for part in parts),
            sum(part.completion_tokens for part in parts),
            sum(part.cached_tokens for part in parts),
            experts_per_token=fewest_experts(parts),
        )

    @property
    def stop_string(self) -> str | None:
        found = (generation.stop_string for generation in self._started)
        return next((stop for stop in found if stop is not None), None)

    def abort(self) -> None:
        for generation in self._started:
            generation.abort()

    def withdraw(self) -> None:
        for generation in self._started:
            generation.withdraw()

    def stop(self) -> None:
        for generation in self._started:
            generation.stop()

    def cancel(self) -> None:
        self._is_cancelled = True
        for generation in self._started:
            generation.cancel()

    async def deltas(self) -> AsyncIterator[TextDelta]:
        """Yield the text as it grows, segment after segment. The finish reason is `length` if any segment was cut off.

        A stop string, a deadline and a cancellation end the whole text: the segments after it are withdrawn.
        """
        reason = FinishReason.STOP
        for index, segment in enumerate(self._prompt.segments):
            self._start_segments_from(index)
            if segment.before:
                yield TextDelta(segment.before)
            await self._until_started(index)
            if len(self._started) <= index:
                yield TextDelta("", finish_reason=FinishReason.ABORT)
                return
            async for delta in self._started[index].deltas():
                if delta.finish_reason not in (None, FinishReason.STOP):
                    reason = delta.finish_reason
                yield replace(delta, finish_reason=None)
            if self._started[index].stopped or reason in (FinishReason.TIMEOUT, FinishReason.ABORT):
                self.withdraw()
                yield TextDelta("", finish_reason=reason)
                return
        yield TextDelta(self._prompt.after, finish_reason=reason)

    async def result(self) -> GenerationResult:
        """Wait for the end and return the whole. Raises as `deltas` does."""
        deltas = [delta async for delta in self.deltas()]
        return fold(deltas, self.usage)

    async def _until_started(self, index: int) -> None:
        """Returns earlier after a cancellation: nothing more is started then."""
        while len(self._started) <= index and not self._is_cancelled:
            await asyncio.sleep(RETRY_SECONDS)
            self._start_segments_from(index)

    def _start_segments_from(self, index: int) -> None:
        """Submit the next segments, up to `max_parallel` and as many as the queue takes; none after a cancellation."""
        if self._is_cancelled:
            return
        last = min(index + self._prompt.max_parallel, len(self._prompt.segments))
        try:
            for number in range(len(self._started), last):
                self._started.append(self._start(number, self._prompt.segments[number].prompt))
        except OverloadedError:
            return  # retried when a running segment has ended
