"""What a request needs before its answer: refused at its beginning or done to its end, however full the server is."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from server.engine.types import SamplingParams
from server.errors import OverloadedError
from server.generation.prompt import Prompt
from server.tasks.sub_generations import AT_ONCE, EarlierWork
from tests.server.applications import Server

SAMPLING = SamplingParams(max_tokens=100)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 10))


def prompts_of(server: Server, count: int) -> list[Prompt]:
    """The answer of each is its own text."""
    return [Prompt(tuple(server.tokenizer.encode(f"part {number}."))) for number in range(count)]


def refused(server: Server) -> float | None:
    return server.metrics.registry.get_sample_value("routelm:requests_rejected_total", {"reason": "queue_full"})


def test_results_come_in_order_and_count_as_usage(server: Server) -> None:
    earlier = EarlierWork(server.service, "r")
    results = run(earlier.results(prompts_of(server, AT_ONCE + 3), SAMPLING))
    assert [result.text for result in results] == [f"part {number}." for number in range(AT_ONCE + 3)]
    assert len(earlier.done) == AT_ONCE + 3
    assert len({request.request_id for request in server.engine.submitted}) == AT_ONCE + 3


def test_no_more_run_at_once_than_one_request_may_take(server: Server) -> None:
    running: list[int] = []
    server.engine.answer = lambda _: running.append(server.engine.running) or ()  # type: ignore[func-returns-value]
    run(EarlierWork(server.service, "r").results(prompts_of(server, 2 * AT_ONCE), SAMPLING))
    assert max(running) == AT_ONCE


def test_what_has_begun_waits_for_room(server: Server) -> None:
    earlier = EarlierWork(server.service, "r")

    async def work() -> int:
        await earlier.results(prompts_of(server, 1), SAMPLING)
        server.engine.occupied = server.engine.capacity
        rest = asyncio.create_task(earlier.results(prompts_of(server, 5), SAMPLING))
        await asyncio.sleep(0.1)
        assert not rest.done()
        server.engine.occupied = server.engine.capacity - 2
        return len(await rest)

    assert run(work()) == 5
    assert refused(server) == 0


def test_what_has_not_begun_is_refused(server: Server) -> None:
    server.engine.occupied = server.engine.capacity
    with pytest.raises(OverloadedError):
        run(EarlierWork(server.service, "r").results(prompts_of(server, 5), SAMPLING))
    assert refused(server) == 1
