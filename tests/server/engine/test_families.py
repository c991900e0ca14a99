"""Every family through the engine: in batches, under preemption and from the prefix cache it equals the oracle."""

import numpy as np
import pytest
import torch

from model.loading.load import load_network
from model.network import CausalLM
from server.engine.engine import Engine
from server.engine.types import EngineRequest
from tests.model.families.checkpoints import CASES, write_checkpoint
from tests.model.older_processor import OlderProcessor
from tests.server.engine.tiny import bytes_for, engine_config, oracle, random_prompt, request, run

COUNT = 8


@pytest.fixture(scope="module", params=CASES)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CausalLM:
    directory = tmp_path_factory.mktemp(request.param)
    write_checkpoint(request.param, directory)
    return load_network(directory, torch.bfloat16)


def streams() -> list[EngineRequest]:
    rng = np.random.default_rng(2)
    prompts = [random_prompt(rng, int(rng.integers(2, 50))) for _ in range(COUNT)]
    return [request(f"r{i}", prompt, 6, boundaries=(len(prompt) // 2,)) for i, prompt in enumerate(prompts)]


@pytest.fixture(scope="module")
def expected(served: CausalLM) -> dict[str, tuple[int, ...]]:
    return {asked.request_id: oracle(served, asked) for asked in streams()}


def test_batched_and_cached(served: CausalLM, expected: dict[str, tuple[int, ...]]) -> None:
    engine = Engine(served, engine_config(max_num_batched_tokens=37))
    for _ in range(2):  # the second time from the prefix cache
        assert {name: output.token_ids for name, output in run(engine, streams()).items()} == expected
    assert engine.stats().prefix_cache_hits > 0


def test_without_what_newer_processors_have(served: CausalLM) -> None:
    with OlderProcessor():
        found = run(Engine(served, engine_config()), streams()[:2])
    assert all(len(output.token_ids) == 6 for output in found.values())


def test_preempted(served: CausalLM, expected: dict[str, tuple[int, ...]]) -> None:
    config = engine_config(max_model_len=64, max_num_seqs=COUNT, block_size=4, prefix_caching=False)
    if not any(hasattr(spec, "bytes_per_token") for spec in served.cache_specs()):
        pytest.skip("without keys and values nothing runs short")
    budget = bytes_for(served, config, blocks=20)
    changes = {"max_model_len": 64, "max_num_seqs": COUNT, "block_size": 4, "prefix_caching": False}
    engine = Engine(served, engine_config(**changes, cache_bytes=budget))
    assert {name: output.token_ids for name, output in run(engine, streams()).items()} == expected
    assert engine.stats().preemptions > 0


def test_the_contexts_of_these_tests_matter(expected: dict[str, tuple[int, ...]]) -> None:
    """Negative control: a network that repeats one token would pass everything above."""
    assert len(set(expected.values())) > COUNT // 2
