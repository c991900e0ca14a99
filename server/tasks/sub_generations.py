"""Generations that a request needs before its answer can start: weighing labels, summaries of pieces."""

import asyncio
from collections.abc import Sequence

from server.api.dependencies import admission
from server.engine.types import SamplingParams
from server.generation.prompt import Prompt
from server.generation.segments import RETRY_SECONDS
from server.generation.service import GenerationService
from server.generation.stream import GenerationResult, RunningGeneration

AT_ONCE = 32  # generations: one request does not fill the queue


class EarlierWork:
    """Asks the engine; `done` are the generations that took, which count as usage.

    A request is accepted or refused with its first generation. Once it has begun, the others wait for room.
    """

    def __init__(self, service: GenerationService, request_id: str) -> None:
        self.service = service
        self.done: list[RunningGeneration] = []
        self._request_id = request_id

    async def results(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> list[GenerationResult]:
        """One generation a prompt, as many at once as there is room for. Raises what the first that fails raises."""
        results: list[GenerationResult] = []
        while len(results) < len(prompts):
            some = prompts[len(results) :][: min(await self.room(), AT_ONCE)]
            with admission(self.service, f"{self._request_id}-{len(self.done)}", some, sampling) as generations:
                results += await asyncio.gather(*(generation.result() for generation in generations))
            self.done += generations
        return results

    async def room(self) -> int:
        """How many generations can start; 1 where none can and nothing has begun, so that it is refused at once."""
        while self.done and self.service.engine.room < 1:  # noqa: ASYNC110
            await asyncio.sleep(RETRY_SECONDS)
        return max(1, self.service.engine.room)
