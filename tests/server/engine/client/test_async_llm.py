"""The engine behind its client: order, back-pressure, exactly one end per request, and no leaks."""

import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from model.network import CausalLM
from server.engine.client.async_llm import AsyncLLM, OutputStream
from server.engine.client.base import EngineClient, EngineClosedError, QueueFullError
from server.engine.engine import Engine
from server.engine.sequence import Sequence
from server.engine.types import EngineOutput, FinishReason, GenerateRequest, SchedulingParams
from tests.server.engine.tiny import collect, engine_config, oracle, random_prompt, request, tiny_network

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def start(network: CausalLM, **changes: Any) -> AsyncLLM:
    return AsyncLLM(Engine(network, engine_config(**changes)))


async def read(stream: OutputStream) -> EngineOutput:
    """All of a stream as one output; fails unless it ends exactly once."""
    outputs = [output async for output in stream]
    return next(iter(collect(outputs).values()))


class Gate:
    """A network whose steps wait until the gate is open."""

    def __init__(self) -> None:
        self.network = tiny_network()
        self.open = threading.Event()
        self.entered = threading.Event()
        forward = self.network.forward

        def waiting(batch: Any) -> tuple[Tensor, Any]:
            self.entered.set()
            assert self.open.wait(20), "nobody opened the gate"
            return forward(batch)

        self.network.forward = waiting  # type: ignore[method-assign]


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open.set()


async def test_streams_give_the_oracles_tokens_one_by_one(network: CausalLM) -> None:
    client: EngineClient = start(network)
    requests = [request(f"r{i}", [5, 6, 7 + i], 5 + i) for i in range(4)]
    streams = [client.submit(asked) for asked in requests]
    for asked, stream in zip(requests, streams, strict=True):
        outputs = [output async for output in stream]
        assert [len(output.token_ids) for output in outputs] == [1] * asked.sampling.max_tokens
        assert tuple(output.token_ids[0] for output in outputs) == oracle(network, asked)
        assert [output.finish_reason for output in outputs[:-1]] == [None] * (len(outputs) - 1)
        with pytest.raises(StopAsyncIteration):
            await anext(aiter(stream))
    await client.close(1)


async def test_a_token_arrives_while_the_next_one_is_computed(gate: Gate) -> None:
    gate.open.set()
    forward, arrived = gate.network.forward, threading.Event()

    def waiting(batch: Any) -> tuple[Tensor, Any]:
        assert len(batch.token_ids_T) > 1 or arrived.wait(20), "the first token did not arrive"
        return forward(batch)

    gate.network.forward = waiting  # type: ignore[method-assign]
    client = start(gate.network)
    stream = client.submit(request("r", [5, 6], 2))
    assert len((await anext(stream)).token_ids) == 1
    arrived.set()
    assert (await anext(stream)).finish_reason is FinishReason.LENGTH
    await client.close(1)


async def test_requests_that_come_together_are_computed_in_one_step(gate: Gate) -> None:
    gate.open.set()
    steps: list[int] = []
    forward = gate.network.forward

    def counting(batch: Any) -> tuple[Tensor, Any]:
        steps.append(len(batch.query_starts_S1) - 1)
        return forward(batch)

    gate.network.forward = counting  # type: ignore[method-assign]
    client = start(gate.network)
    await asyncio.sleep(0.05)  # until the engine's thread sleeps
    streams = []
    for name in ("first", "second"):
        streams.append(client.submit(request(name, [5, 6], 1)))
        await asyncio.sleep(0)  # the loop reads other requests
    for stream in streams:
        await read(stream)
    assert steps == [2]
    await client.close(1)


async def test_what_cannot_be_served_is_refused_at_once(network: CausalLM) -> None:
    client = start(network)
    with pytest.raises(ValueError, match="token id 999"):
        client.submit(request("a", [999]))
    stream = client.submit(request("a", [5], 3))
    with pytest.raises(ValueError, match="'a' is in use"):
        client.submit(request("a", [6]))
    await read(stream)
    assert (await read(client.submit(request("a", [6], 2)))).finish_reason is FinishReason.LENGTH
    await client.close(1)


async def test_a_full_queue_refuses_with_a_time_to_wait(gate: Gate) -> None:
    client = start(gate.network, max_num_seqs=2, max_queue=3)
    streams = [client.submit(request(f"r{i}", [5, 6], 2)) for i in range(5)]
    with pytest.raises(QueueFullError) as refusal:
        client.submit(request("one too many", [5], 2))
    assert 0.1 <= refusal.value.retry_after <= 60
    await asyncio.to_thread(gate.entered.wait, 20)
    assert client.stats().running + client.stats().waiting == 5
    gate.open.set()
    for stream in streams:
        assert (await read(stream)).finish_reason is FinishReason.LENGTH
    assert (await read(client.submit(request("now", [5], 2)))).finish_reason is FinishReason.LENGTH
    await client.close(1)


async def test_abort_ends_a_stream_in_every_state(gate: Gate) -> None:
    client = start(gate.network, max_num_seqs=1)
    running = client.submit(request("running", [5, 6], 200))
    await asyncio.to_thread(gate.entered.wait, 20)
    waiting, kept = (client.submit(request(name, [5, 6], 2)) for name in ("waiting", "kept"))
    for name in ("running", "waiting", "waiting", "unknown"):
        client.abort(name)
    gate.open.set()
    results = [await read(stream) for stream in (running, waiting, kept)]
    assert [result.finish_reason for result in results] == [FinishReason.ABORT, FinishReason.ABORT, FinishReason.LENGTH]
    client.abort("kept")  # finished: nothing happens
    await client.close(1)


async def test_clients_that_leave_the_queue_do_not_make_the_server_look_fast(gate: Gate) -> None:
    client = start(gate.network, max_num_seqs=1)
    ids = [f"r{number}" for number in range(20)]
    for request_id in ids:
        client.submit(request(request_id, [5, 6], 2))
    client._deliver([EngineOutput(request_id, (), finish_reason=FinishReason.ABORT) for request_id in ids[2:]])
    assert client.expected_wait(SchedulingParams()) == 0, "no work was done, so the rate is not known yet"
    gate.open.set()
    await client.close(20)


async def test_close_lets_running_requests_finish(network: CausalLM) -> None:
    client = start(network)
    stream = client.submit(request("a", [5, 6], 6))
    closing = asyncio.create_task(client.close(20))
    await asyncio.sleep(0)
    with pytest.raises(EngineClosedError):
        client.submit(request("b", [5]))
    assert (await read(stream)).finish_reason is FinishReason.LENGTH
    await closing
    assert not client._thread.is_alive()
    await client.close(0)  # once more does no harm


async def test_close_aborts_what_does_not_finish_in_time(network: CausalLM) -> None:
    client = start(network, max_num_seqs=1)
    streams = [client.submit(request(f"r{i}", [5, 6], 250)) for i in range(3)]
    await client.close(0)
    assert [(await read(stream)).finish_reason for stream in streams] == [FinishReason.ABORT] * 3
    assert not client._thread.is_alive()


async def test_every_request_ends_once_while_steps_fail_at_random() -> None:
    network = tiny_network()
    forward, dice = network.forward, np.random.default_rng(0)

    def sometimes(batch: Any) -> tuple[Tensor, Any]:
        if dice.random() < 0.2:
            raise RuntimeError("injected")
        return forward(batch)

    network.forward = sometimes  # type: ignore[method-assign]
    client = start(network, max_num_seqs=4)
    results = await asyncio.gather(*(read(client.submit(request(f"r{i}", [5, 6, 7 + i], 4))) for i in range(40)))
    reasons = {result.finish_reason for result in results}
    assert reasons == {FinishReason.ERROR, FinishReason.LENGTH}
    assert client.stats().step_failures > 0
    assert (client.stats().kv_blocks_used, client.stats().state_slots_used) == (0, 0)
    await client.close(1)


async def test_every_request_ends_once_when_the_engine_itself_is_wrong(network: CausalLM) -> None:
    client = start(network)
    scheduler = client._engine.scheduler
    schedule, calls = scheduler.schedule, iter(range(1000))

    def broken() -> Any:
        if next(calls) == 2:
            raise KeyError("a mistake of ours")
        return schedule()

    scheduler.schedule = broken  # type: ignore[method-assign]
    streams = [client.submit(request(f"r{i}", [5, 6], 8)) for i in range(3)]
    assert {(await read(stream)).finish_reason for stream in streams} == {FinishReason.ERROR}
    after = await read(client.submit(request("after", [5, 6], 3)))
    assert after.token_ids == oracle(network, request("after", [5, 6], 3))
    await client.close(1)


async def test_idle_it_sleeps(network: CausalLM) -> None:
    client = start(network)
    await read(client.submit(request("a", [5], 2)))
    steps, used = client.stats().steps, time.process_time()
    await asyncio.sleep(0.3)
    assert client.stats().steps == steps
    assert time.process_time() - used < 0.15, "somebody spins"
    await client.close(1)


def objects_of_requests() -> list[object]:
    gc.collect()
    kinds = {Sequence, GenerateRequest, EngineOutput, OutputStream}
    return [thing for thing in gc.get_objects() if type(thing) in kinds]


async def objects_left(before: int) -> int:
    """How many more than before, once the engine's thread is idle."""
    for _ in range(100):
        if len(objects_of_requests()) == before:
            break
        await asyncio.sleep(0.01)
    return len(objects_of_requests()) - before


async def serve_and_cancel(client: AsyncLLM, count: int) -> dict[str, int]:
    """Submit `count` requests, cancel about a third of them at random moments, and count the ends."""
    dice = np.random.default_rng(3)
    shared = random_prompt(dice, 20)
    ends: dict[str, int] = {}

    async def one(number: int) -> None:
        asked = request(f"r{number}", shared[: dice.integers(1, 20)], int(dice.integers(1, 7)), boundaries=())
        stream = client.submit(asked)
        leave_after = int(dice.integers(0, 5)) if dice.random() < 1 / 3 else None
        if leave_after == 0:
            client.abort(asked.request_id)
        seen = 0
        async for output in stream:
            seen += 1
            if seen == leave_after:
                client.abort(asked.request_id)
            if output.finish_reason is not None:
                ends[output.finish_reason] = ends.get(output.finish_reason, 0) + 1

    await asyncio.gather(*(one(number) for number in range(count)))
    return ends


async def test_500_requests_a_third_cancelled_leave_nothing(network: CausalLM) -> None:
    client = start(network, max_queue=500)
    before = len(objects_of_requests())
    ends = await serve_and_cancel(client, 500)
    assert sum(ends.values()) == 500
    assert ends[FinishReason.ABORT] > 50
    stats = client.stats()
    assert (stats.running, stats.waiting, stats.kv_blocks_used, stats.state_slots_used) == (0, 0, 0, 0)
    assert stats.healthy
    assert await objects_left(before) == 0
    scheduler = client._engine.scheduler
    assert not scheduler.has_unfinished
    assert scheduler.pool.cache.blocks.num_free == client._engine.layout.num_blocks
    await client.close(1)


async def test_a_kept_request_is_counted(network: CausalLM) -> None:
    """Negative control: one forgotten output is noticed."""
    client = start(network)
    before = len(objects_of_requests())
    kept = await read(client.submit(request("a", [5], 2)))
    assert kept.token_ids
    assert await objects_left(before + 1) == 0
    await client.close(1)


async def test_every_request_ends_once_when_finishing_goes_wrong(network: CausalLM) -> None:
    """The bookkeeping of a step fails after it has finished one request; that request must end too."""
    client = start(network)
    scheduler = client._engine.scheduler
    advance, calls = scheduler.beams.advance, iter(range(1000))

    def broken() -> Any:
        if next(calls) == 2:
            raise KeyError("a mistake of ours")
        return advance()

    scheduler.beams.advance = broken  # type: ignore[method-assign]
    streams = [client.submit(request(name, [5, 6], tokens)) for name, tokens in (("ends", 3), ("goes on", 9))]
    results = await asyncio.wait_for(asyncio.gather(*(read(stream) for stream in streams)), 20)
    assert {result.finish_reason for result in results} == {FinishReason.ERROR}
    after = await read(client.submit(request("after", [5, 6], 3)))
    assert after.token_ids == oracle(network, request("after", [5, 6], 3))
    await client.close(1)


async def test_a_mistake_in_an_abort_does_not_end_the_thread(network: CausalLM) -> None:
    client = start(network)

    def broken(request_id: str) -> Any:
        raise KeyError("a mistake of ours")

    client._engine.scheduler.abort = broken  # type: ignore[method-assign]
    stream = client.submit(request("a", [5, 6], 200))
    client.abort("a")
    assert (await asyncio.wait_for(read(stream), 20)).finish_reason is FinishReason.ERROR
    assert (await read(client.submit(request("b", [5, 6], 2)))).finish_reason is FinishReason.LENGTH
    assert client.stats().healthy
    await client.close(1)


async def test_a_dead_thread_is_told_and_ends_what_waits(network: CausalLM) -> None:
    client = start(network)

    def broken() -> Any:
        raise KeyError("a mistake of ours")

    client._engine.stats = broken  # type: ignore[method-assign]
    assert (await asyncio.wait_for(read(client.submit(request("a", [5, 6], 2))), 20)).finish_reason
    await asyncio.to_thread(client._thread.join, 20)
    await asyncio.sleep(0)
    assert not client.stats().healthy
    with pytest.raises(EngineClosedError):
        client.submit(request("b", [5]))
    await asyncio.wait_for(client.close(1), 20)


async def test_a_step_that_never_ends_is_unhealthy_and_does_not_keep_the_server(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.engine.client.async_llm.HANGING_AFTER", 0.05)
    monkeypatch.setattr("server.engine.client.async_llm.ABORT_SECONDS", 0.05)
    client = start(gate.network)
    await asyncio.sleep(0.1)
    assert client.stats().healthy, "it rests"
    stream = client.submit(request("a", [5, 6], 2))
    assert client.stats().healthy
    await asyncio.to_thread(gate.entered.wait, 20)
    await asyncio.sleep(0.1)
    assert not client.stats().healthy
    await asyncio.wait_for(client.close(0.05), 20)
    assert (await read(stream)).finish_reason is FinishReason.ERROR
    gate.open.set()  # the outputs that come now have no stream any more
    await asyncio.to_thread(client._thread.join, 20)
    await asyncio.sleep(0)


async def test_a_search_whose_prompt_is_computed_is_not_expected_to_wait(gate: Gate) -> None:
    client = start(gate.network, max_num_seqs=4)
    gate.open.set()
    stream = client.submit(request("beams", [5, 6, 7], 5, beam_width=4))
    assert client._admission._workload.is_waiting("beams")
    first = await anext(stream)
    assert (first.token_ids, first.finish_reason) == ((), None)
    assert not client._admission._workload.is_waiting("beams")
    assert (await read(stream)).token_ids
    await client.close(1)


async def test_a_search_counts_as_one_running_request(gate: Gate) -> None:
    client = start(gate.network, max_num_seqs=4)
    gate.open.set()
    seen = []
    stats = client._engine.stats

    def watched() -> Any:
        seen.append(stats())
        return seen[-1]

    client._engine.stats = watched  # type: ignore[method-assign]
    streams = [client.submit(request(f"r{i}", [5, 6, 7 + i], 5, beam_width=4)) for i in range(3)]
    results = [await read(stream) for stream in streams]
    assert max(each.running for each in seen) <= 3
    assert any(each.waiting for each in seen if each.state_slots_used == 4), "they wait for the beams of the first"
    for result in results:
        assert result.times is not None
        assert result.times.first_token == result.times.finished
    await client.close(1)
