"""32 streams in one batch, each the same as alone to the last bit: preempted, in tiny chunks, from the cache, too."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoints.hub import BUNDLED
from model.loading.load import load_network
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.types import EngineOutput, GenerateRequest, SamplingParams
from tests.end_to_end.conftest import RunningServer, serving

pytestmark = [pytest.mark.slow, pytest.mark.compiled_kernels]

TOPICS = ["the sea", "a dog", "winter", "my friend", "a train", "music", "the moon", "bread"]
PROMPTS = [f"{'Please tell me ' * (1 + n % 5)}a story about {TOPICS[n % 8]}, number {n}." for n in range(32)]


async def ask(server: RunningServer, number: int, seed_offset: int = 0) -> list[tuple[str, float]]:
    """Stream one chat completion; every token with its log-probability, as the client got them."""
    async with server.async_openai() as client:
        stream = await client.chat.completions.create(
            model="routelm", messages=[{"role": "user", "content": PROMPTS[number]}], stream=True, logprobs=True,
            max_tokens=24, temperature=0.9, seed=number + seed_offset, extra_body={"min_tokens": 12},
        )  # fmt: skip
        tokens = []
        async for chunk in stream:
            for choice in chunk.choices:
                for entry in (choice.logprobs.content or []) if choice.logprobs else []:
                    tokens.append((entry.token, entry.logprob))
        return tokens


async def ask_all(server: RunningServer) -> list[list[tuple[str, float]]]:
    return list(await asyncio.gather(*(ask(server, number) for number in range(len(PROMPTS)))))


def test_32_streams_over_http_equal_each_alone(server: RunningServer) -> None:
    together = asyncio.run(ask_all(server))
    alone = [asyncio.run(ask(server, number)) for number in range(len(PROMPTS))]
    assert all(len(answer) >= 12 for answer in together)
    assert together == alone
    assert asyncio.run(ask(server, 0, seed_offset=1)) != alone[0], "negative control: another seed must show"


def test_a_second_server_gives_the_same_bits(server: RunningServer) -> None:
    with serving(max_num_batched_tokens=64) as other:
        assert asyncio.run(ask_all(other)) == asyncio.run(ask_all(server))


ROOMY = 2**28  # bytes
CROWDED = 64 * 450_000 + 40 * 16_384  # bytes: 64 slots, and so few blocks that sequences push each other out


def requests() -> list[GenerateRequest]:
    """Prompts of many lengths, some with a common beginning; sampled, with log-probabilities."""
    sampling = SamplingParams(max_tokens=20, temperature=0.8, top_p=0.95, ignore_eos=True, logprobs=2)
    shared = tuple(range(100, 170))
    made = []
    for number in range(32):
        own = tuple(300 + (number * 37 + i * 11) % 4000 for i in range(5 + 9 * (number % 7)))
        ids = (*shared, *own) if number % 2 else own
        made.append(GenerateRequest(f"r{number}", ids, replace(sampling, seed=number), arrival_time=1.0))
    return made


def outcomes(engine: Engine, batch: list[GenerateRequest]) -> dict[str, list[Any]]:
    """Tokens with all their log-probabilities, by request."""
    for request in batch:
        engine.submit(request)
    found: dict[str, list[Any]] = {request.request_id: [] for request in batch}
    while engine.has_unfinished:
        for output in engine.step():
            assert output.error is None
            found[output.request_id] += entries(output)
    return found


def entries(output: EngineOutput) -> list[Any]:
    return [(entry.token_id, entry.logprob, entry.top) for entry in output.logprobs]


def build(directory: Path = BUNDLED, **settings: Any) -> Engine:
    network = load_network(directory, torch.bfloat16)  # which CROWDED counts with
    return Engine(network, EngineConfig(max_model_len=256, **({"cache_bytes": ROOMY} | settings)))


@pytest.fixture(scope="module")
def alone() -> dict[str, list[Any]]:
    """Every request by itself on an engine without a prefix cache."""
    engine = build(prefix_caching=False)
    return {request.request_id: outcomes(engine, [request])[request.request_id] for request in requests()}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_prefill_chunk": 1, "prefix_caching": False},
        {"cache_bytes": CROWDED, "prefix_caching": False},
        {"cache_bytes": CROWDED, "max_prefill_chunk": 3},
        {"snapshot_interval": 8},
    ],
    ids=["one batch", "chunks of one token", "preemption", "preemption, chunks, cache", "dense snapshots"],
)
def test_any_schedule_gives_the_same_bits(settings: dict[str, Any], alone: dict[str, list[Any]]) -> None:
    engine = build(**settings)
    assert outcomes(engine, requests()) == alone
    again = outcomes(engine, requests())  # now from the prefix cache, where there is one
    assert again == alone
    stats = engine.stats()
    assert (stats.preemptions > 0) == ("cache_bytes" in settings)
    assert (stats.prefix_cache_hits > 0) == settings.get("prefix_caching", True)
