"""Sub-generations of a task: refused at the beginning or run to the end, however full the server is."""

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from server.engine.types import SamplingParams
from server.errors import OverloadedError
from server.generation.admission import Admission
from server.generation.prompt import Prompt
from server.tasks.sub_generations import MAX_PARALLEL, run_sub_generations
from tests.server.applications import Server

SAMPLING = SamplingParams(max_tokens=100)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 10))


def prompts_of(server: Server, count: int) -> list[Prompt]:
    """The answer to each is its own text."""
    return [Prompt(tuple(server.tokenizer.encode(f"part {number}."))) for number in range(count)]


def rejected(server: Server) -> float | None:
    return server.metrics.registry.get_sample_value("routelm:requests_rejected_total", {"reason": "queue_full"})


def test_results_come_in_order_and_count_as_usage(server: Server) -> None:
    admission = Admission(server.service, "r")
    results = run(run_sub_generations(admission, prompts_of(server, MAX_PARALLEL + 3), SAMPLING))
    assert [result.text for result in results] == [f"part {number}." for number in range(MAX_PARALLEL + 3)]
    assert len(admission.generations) == MAX_PARALLEL + 3
    assert len({request.request_id for request in server.engine.submitted}) == MAX_PARALLEL + 3


def test_parallel_generations_of_a_request_are_limited(server: Server) -> None:
    running: list[int] = []
    server.engine.answer = lambda _: running.append(server.engine.running) or ()  # type: ignore[func-returns-value]
    run(run_sub_generations(Admission(server.service, "r"), prompts_of(server, 2 * MAX_PARALLEL), SAMPLING))
    assert max(running) == MAX_PARALLEL


def test_a_request_that_has_begun_waits_for_free_slots(server: Server) -> None:
    admission = Admission(server.service, "r")

    async def work() -> int:
        await run_sub_generations(admission, prompts_of(server, 1), SAMPLING)
        server.engine.occupied = server.engine.capacity
        rest = asyncio.create_task(run_sub_generations(admission, prompts_of(server, 5), SAMPLING))
        await asyncio.sleep(0.1)
        assert not rest.done()
        server.engine.occupied = server.engine.capacity - 2
        return len(await rest)

    assert run(work()) == 5
    assert rejected(server) == 0


def test_a_request_that_has_not_begun_is_refused(server: Server) -> None:
    server.engine.occupied = server.engine.capacity
    with pytest.raises(OverloadedError):
        run(run_sub_generations(Admission(server.service, "r"), prompts_of(server, 5), SAMPLING))
    assert rejected(server) == 1


def test_prompts_are_made_when_they_are_needed(server: Server) -> None:
    made: list[Prompt] = []
    started: list[int] = []

    def one_by_one() -> Iterator[Prompt]:
        for prompt in prompts_of(server, MAX_PARALLEL + 3):
            made.append(prompt)
            yield prompt

    server.engine.answer = lambda _: started.append(len(made)) or ()  # type: ignore[func-returns-value]
    run(run_sub_generations(Admission(server.service, "r"), one_by_one(), SAMPLING))
    assert started == [MAX_PARALLEL] * MAX_PARALLEL + [MAX_PARALLEL + 3] * 3
