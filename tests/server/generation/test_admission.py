"""The generations of a request: all or none, in the order of their seeds, aborted at the end."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from server.engine.types import SamplingParams
from server.errors import InvalidRequestError, OverloadedError
from server.generation.admission import Admission
from server.generation.prompt import Prompt
from tests.server.applications import Server

PROMPT = Prompt((40, 41))


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 10))


def test_all_or_none_are_started(server: Server) -> None:
    async def work() -> None:
        server.engine.occupied = server.engine.capacity - 2
        with Admission(server.service, "r") as admission:
            with pytest.raises(OverloadedError):
                admission.start([PROMPT], SamplingParams(5), n=3)
            assert admission.generations == []
            assert not admission.has_begun.is_set()
        assert server.engine.aborted == ["r-0", "r-1"]

    run(work())


def test_what_runs_is_aborted_at_the_end(server: Server) -> None:
    server.engine.step_seconds = 0.01
    server.answer_with("x" * 50)

    async def work() -> None:
        with Admission(server.service, "r") as admission:
            admission.start([PROMPT, PROMPT], SamplingParams(50))
            assert admission.has_begun.is_set()
        assert server.engine.aborted == ["r-0", "r-1"]

    run(work())


def test_what_has_ended_is_not_aborted(server: Server) -> None:
    async def work() -> None:
        with Admission(server.service, "r") as admission:
            [generation] = admission.start([PROMPT], SamplingParams(3))
            await generation.result()
        assert server.engine.aborted == []

    run(work())


def test_ids_and_seeds_go_on_from_start_to_start(server: Server) -> None:
    async def work() -> None:
        with Admission(server.service, "r") as admission:
            admission.start([PROMPT], SamplingParams(3, seed=2**63 - 1), n=2)
            admission.start([PROMPT], SamplingParams(3))

    run(work())
    assert [request.request_id for request in server.engine.submitted] == ["r-0", "r-1", "r-2"]
    assert [request.sampling.seed for request in server.engine.submitted] == [2**63 - 1, 0, None]


def test_more_than_the_server_ever_holds_is_refused_for_good(server: Server) -> None:
    server.engine.capacity = 3
    with pytest.raises(InvalidRequestError, match="this server holds 3"):
        Admission(server.service, "r").start([PROMPT] * 2, SamplingParams(3), n=2)
