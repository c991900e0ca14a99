"""A text answered part by part reads like one generation: in order, ended once, freed when it is left."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, replace
from typing import Any

import pytest

from server.engine.types import EngineRequest, FinishReason, SamplingParams
from server.errors import EngineFailedError, OverloadedError, PromptTooLongError
from server.generation.prompt import Prompt
from server.generation.segments import MAX_PARALLEL_SEGMENTS, RETRY_SECONDS, Segment, SegmentedPrompt
from server.generation.stream import GenerationResult, RunningGeneration, TextDelta, TextOptions, Usage, all_results
from tests.server.applications import MAX_MODEL_LEN, Server, make_server


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 10))


def numbered(server: Server, count: int) -> SegmentedPrompt:
    """Parts whose answer is their own text."""
    texts = [f"part {number}." for number in range(count)]
    prompts = [Prompt(tuple(server.tokenizer.encode(text))) for text in texts]
    return SegmentedPrompt(tuple(Segment(" " if i else "", prompt) for i, prompt in enumerate(prompts)), "\n")


def start(server: Server, prompt: SegmentedPrompt, **sampling: Any) -> RunningGeneration:
    return server.service.start("r", prompt, SamplingParams(**{"max_tokens": 100, **sampling}))


async def deltas(server: Server, prompt: SegmentedPrompt) -> list[TextDelta]:
    return [delta async for delta in start(server, prompt).deltas()]


def test_parts_come_in_order_with_one_end(server: Server) -> None:
    found = run(deltas(server, numbered(server, 3)))
    assert "".join(delta.text for delta in found) == "part 0. part 1. part 2.\n"
    assert [delta.finish_reason for delta in found if delta.finish_reason] == [FinishReason.STOP]
    assert found[-1].finish_reason is FinishReason.STOP


def test_result_and_usage_cover_all_parts(server: Server) -> None:
    async def work() -> tuple[str, int, int]:
        generation = start(server, numbered(server, 5))
        result = await generation.result()
        return result.text, result.usage.prompt_tokens, generation.usage.completion_tokens

    text, prompt_tokens, completion_tokens = run(work())
    assert text == "part 0. part 1. part 2. part 3. part 4.\n"
    assert prompt_tokens == 5 * len("part 0.")
    assert completion_tokens == 5 * (len("part 0.") + 1)


def test_one_cut_part_makes_the_whole_end_with_length(server: Server) -> None:
    async def work() -> FinishReason:
        return (await start(server, numbered(server, 2), max_tokens=3).result()).finish_reason

    assert run(work()) is FinishReason.LENGTH


def test_only_so_many_parts_are_submitted_ahead(server: Server) -> None:
    async def work() -> tuple[int, str]:
        generation = start(server, numbered(server, MAX_PARALLEL_SEGMENTS + 9))
        deltas = generation.deltas()
        text = (await anext(aiter(deltas))).text
        submitted = len(server.engine.submitted)
        return submitted, text + "".join([delta.text async for delta in deltas])

    submitted, text = run(work())
    assert submitted == MAX_PARALLEL_SEGMENTS
    assert text.count("part") == MAX_PARALLEL_SEGMENTS + 9


def test_a_full_queue_delays_later_parts_but_refuses_the_first() -> None:
    server = make_server()
    server.engine.capacity = 2

    async def work() -> str:
        deltas = start(server, numbered(server, 6)).deltas()
        text = (await anext(aiter(deltas))).text
        with pytest.raises(OverloadedError):
            start(server, numbered(server, 2))
        return text + "".join([delta.text async for delta in deltas])

    assert run(work()).count("part") == 6


def test_abort_ends_every_part(server: Server) -> None:
    def endless(request: EngineRequest) -> list[int]:
        return [50] * 90

    server.engine.answer = endless
    server.engine.step_seconds = 0.01

    async def work() -> None:
        generation = start(server, numbered(server, 4))
        await anext(aiter(generation.deltas()))
        generation.abort()

    run(work())
    assert sorted(server.engine.aborted) == ["r-0", "r-1", "r-2", "r-3"]


def test_nothing_is_started_after_a_cancellation(server: Server) -> None:
    """The parts that wait for a free slot at that moment are not begun when there is one."""

    async def work() -> tuple[str, FinishReason]:
        generation = start(server, numbered(server, 4))
        server.engine.occupied = 1
        reading = asyncio.create_task(generation.result())
        while not generation.usage.completion_tokens or server.engine.running:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        generation.cancel()
        server.engine.occupied = 0
        result = await reading
        return result.text, result.finish_reason

    server.engine.capacity = 1
    text, reason = run(work())
    assert reason is FinishReason.ABORT
    assert text.split() == ["part", "0."]
    assert [request.request_id for request in server.engine.submitted] == ["r-0"]


@dataclass
class Failing:
    """A generation that fails when it is told to."""

    told: asyncio.Event
    usage = Usage(0, 0, 0)

    def deltas(self) -> AsyncIterator[TextDelta]:
        raise NotImplementedError

    async def result(self) -> GenerationResult:
        await self.told.wait()
        raise EngineFailedError("the step failed")


def test_nothing_is_started_after_another_text_has_failed(server: Server) -> None:
    async def work() -> None:
        generation, failing = start(server, replace(numbered(server, 2), max_parallel=1)), Failing(asyncio.Event())
        server.engine.occupied = server.engine.capacity  # the second part has to wait
        reading = asyncio.create_task(all_results([failing, generation]))
        while server.engine.running:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        failing.told.set()
        with pytest.raises(EngineFailedError):
            await reading
        generation.abort()
        server.engine.occupied = 0
        await asyncio.sleep(3 * RETRY_SECONDS)

    run(work())
    assert len(server.engine.submitted) == 1


def test_a_stop_string_ends_the_whole_text(server: Server) -> None:
    async def work() -> tuple[str, FinishReason]:
        generation = server.service.start(
            "r", numbered(server, 6), SamplingParams(max_tokens=100), TextOptions(("rt 2",))
        )
        result = await generation.result()
        return result.text, result.finish_reason

    assert run(work()) == ("part 0. part 1. pa", FinishReason.STOP)
    assert {"r-3", "r-4", "r-5"} <= set(server.engine.aborted)


def test_a_part_that_is_too_long_is_told_before_any_work(server: Server) -> None:
    prompt = numbered(server, 3)
    long = Segment(" ", Prompt(tuple(server.tokenizer.encode("x" * (MAX_MODEL_LEN + 1)))))
    with pytest.raises(PromptTooLongError):
        start(server, SegmentedPrompt((*prompt.segments, long)))
    assert server.engine.submitted == []
