"""The same request gives the same tokens and, to the last bit, the same log-probabilities, whatever runs beside it."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.network import CausalLM
from server.engine.engine import Engine
from server.engine.types import EngineOutput, GenerateRequest
from tests.server.engine.tiny import bytes_for, engine_config, random_prompt, request, run, tiny_network

pytestmark = pytest.mark.usefixtures("cpu_isa")

COUNT = 32


def streams() -> list[GenerateRequest]:
    """32 different requests, with every way to sample among them."""
    rng = np.random.default_rng(1)
    ways: list[dict[str, Any]] = [
        {},
        {"temperature": 1.0},
        {"temperature": 0.7, "top_p": 0.9},
        {"temperature": 1.3, "top_k": 20, "min_p": 0.01},
        {"temperature": 1.0, "repetition_penalty": 1.2, "frequency_penalty": 0.3, "presence_penalty": 0.1},
        {"temperature": 0.9, "logit_bias": ((5, 2.0),), "top_p": 0.5, "min_tokens": 4},
    ]
    prompts = [random_prompt(rng, int(rng.integers(2, 60))) for _ in range(COUNT)]
    return [
        request(f"r{i}", prompt, 7, seed=i, logprobs=3, boundaries=(len(prompt) // 2,), **ways[i % len(ways)])
        for i, prompt in enumerate(prompts)
    ]


def alone(network: CausalLM, count: int = COUNT) -> dict[str, EngineOutput]:
    """Each request in an engine of its own."""
    results: dict[str, EngineOutput] = {}
    for asked in streams()[:count]:
        results |= run(Engine(network, engine_config(prefix_caching=False)), [asked])
    return results


def same(first: dict[str, EngineOutput], second: dict[str, EngineOutput]) -> bool:
    """Tokens and log-probabilities equal, bit by bit."""
    return all(
        first[name].token_ids == second[name].token_ids and first[name].logprobs == second[name].logprobs
        for name in first
    )


@pytest.fixture(scope="module")
def expected(network: CausalLM, cpu_isa: str) -> dict[str, EngineOutput]:
    """At every level of compiled kernels that runs here."""
    return alone(network)


@pytest.mark.parametrize(
    "changes",
    [{}, {"max_prefill_chunk": 1}, {"max_num_batched_tokens": 37}, {"snapshot_interval": 3, "block_size": 4}],
    ids=str,
)
def test_alone_or_in_a_batch_of_32(
    network: CausalLM, expected: dict[str, EngineOutput], changes: dict[str, Any]
) -> None:
    engine = Engine(network, engine_config(**changes))
    assert same(expected, run(engine, streams()))
    assert same(expected, run(engine, reversed(streams())))  # another order, and from the prefix cache
    assert engine.stats().prefix_cache_hits > 0


def test_under_forced_preemption(network: CausalLM, expected: dict[str, EngineOutput]) -> None:
    config = engine_config(max_model_len=80, block_size=4, prefix_caching=False)
    budget = bytes_for(network, config, blocks=60)
    engine = Engine(network, engine_config(max_model_len=80, block_size=4, prefix_caching=False, cache_bytes=budget))
    assert same(expected, run(engine, streams()))
    assert engine.stats().preemptions > 0


def test_a_network_that_mixes_rows_is_caught() -> None:
    """Negative control: a trace of the other rows, far too small to change a token, must be noticed."""
    network = tiny_network()
    plain_logits = network.logits

    def mixing(hidden_RD: Tensor) -> Tensor:
        return plain_logits(hidden_RD) + 1e-3 * hidden_RD.float().mean()

    network.logits = mixing  # type: ignore[method-assign]
    assert not same(alone(network, 6), run(Engine(network, engine_config()), streams()[:6]))


def test_another_seed_gives_other_tokens(network: CausalLM) -> None:
    """Negative control: the comparison is not of constants."""
    asked = [request(f"s{seed}", range(3, 20), 10, temperature=1.0, seed=seed) for seed in (1, 2)]
    results = run(Engine(network, engine_config()), asked)
    assert results["s1"].token_ids != results["s2"].token_ids


def test_the_contexts_of_these_tests_matter(expected: dict[str, EngineOutput]) -> None:
    """Negative control: a network that ignores its input would pass everything above."""
    assert len({result.token_ids for result in expected.values()}) == COUNT
    assert len({token for result in expected.values() for token in result.token_ids}) > 30


def test_the_number_of_threads_changes_nothing(network: CausalLM, expected: dict[str, EngineOutput]) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - min(threads, 2))
    try:
        assert same(expected, run(Engine(network, engine_config()), streams()))
    finally:
        torch.set_num_threads(threads)
