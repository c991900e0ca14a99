"""Generations that a task needs before its answer can start: scores of labels, summaries of chunks."""

from collections.abc import Iterable
from itertools import islice

from server.engine.types import RoutingParams, SamplingParams
from server.generation.admission import Admission
from server.generation.prompt import Prompt
from server.generation.service import DEFAULT_OPTIONS
from server.generation.stream import GenerationResult, TextOptions, all_results

MAX_PARALLEL = 32  # generations, so that one request does not fill the queue


async def run_sub_generations(
    admission: Admission,
    prompts: Iterable[Prompt],
    sampling: SamplingParams,
    options: TextOptions = DEFAULT_OPTIONS,
    routing: RoutingParams | None = None,
) -> list[GenerationResult]:
    """Run one generation per prompt, as many in parallel as there are free slots; results in the order of prompts.

    `routing`: another one than that of the request. The prompts are taken when they are needed, so an iterator can make
    them one by one. A request is accepted or refused with its first generation. After that, the others wait for free
    slots. Raises what the first generation that fails raises.
    """
    results: list[GenerationResult] = []
    rest = iter(prompts)
    following = next(rest, None)
    while following is not None:
        batch_size = min(await admission.free_slots(), MAX_PARALLEL)
        generations = admission.start([following, *islice(rest, batch_size - 1)], sampling, options, routing=routing)
        results += await all_results(generations)
        following = next(rest, None)
    return results
