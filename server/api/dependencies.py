"""What endpoints get from the application, and how a request owns its generations."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, Request

from server.api.usage import UsageInfo, usage_of
from server.engine.types import SamplingParams
from server.errors import InvalidRequestError
from server.generation.prompt import Prompt
from server.generation.segments import SegmentedPrompt
from server.generation.service import GenerationService
from server.generation.stream import GenerationResult, RunningGeneration

Body = TypeVar("Body")


async def get_service(request: Request) -> GenerationService:
    service: GenerationService = request.app.state.service
    return service


async def get_request_id(request: Request) -> str:
    """The id that the X-Request-Id header of the answer tells."""
    request_id: str = request.scope["request_id"]
    return request_id


Service = Annotated[GenerationService, Depends(get_service)]
RequestId = Annotated[str, Depends(get_request_id)]


@dataclass(frozen=True, slots=True)
class Admitted(Generic[Body]):
    """An accepted request: its body, its running generations, and what the endpoint found out on the way.

    `earlier`: generations that were needed before these could start; they have ended and only count as usage.
    """

    id: str
    body: Body
    generations: list[RunningGeneration]
    prompts: Sequence[Prompt] = ()
    extra: Any = None
    earlier: Sequence[RunningGeneration] = ()

    @property
    def usage(self) -> UsageInfo:
        return usage_of([*self.earlier, *self.generations])

    async def results(self) -> list[GenerationResult]:
        """Wait for all of them. Raises what the first that fails raises."""
        return await asyncio.gather(*(generation.result() for generation in self.generations))


@contextmanager
def admission(
    service: GenerationService,
    request_id: str,
    prompts: Sequence[Prompt | SegmentedPrompt],
    sampling: SamplingParams,
    stop: tuple[str, ...] = (),
    n: int = 1,
) -> Iterator[list[RunningGeneration]]:
    """Start `n` generations per prompt, all or none; what still runs when the block is left is aborted.

    Used inside a dependency with `yield`: its end runs when the answer is sent and when the client has gone.
    Of several choices each has its own seed: the given one, then the next ones. InvalidRequestError for more
    generations than the server ever holds: trying again would not help.
    """
    if len(prompts) * n > service.engine.capacity:
        raise InvalidRequestError(
            f"This takes {len(prompts) * n} generations at once, and this server holds {service.engine.capacity}: "
            "send several smaller requests."
        )
    generations: list[RunningGeneration] = []
    try:
        for prompt in prompts:
            for choice in range(n):
                seed = None if sampling.seed is None else (sampling.seed + choice) % 2**63
                engine_id = f"{request_id}-{len(generations)}"
                generations.append(service.start(engine_id, prompt, replace(sampling, seed=seed), stop))
    except BaseException:
        for generation in generations:
            generation.withdraw()
        raise
    try:
        yield generations
    finally:
        for generation in generations:
            generation.abort()
