"""The width of the engine's contracts: several tokens a step, requests that generate nothing, salted prefixes."""

from collections.abc import Sequence as Tokens
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch

from model.config import with_experts_per_token
from model.generate import sequence_hidden, sequence_logprobs
from model.network import CausalLM
from server.engine.cache.layout import CacheLayout
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.scheduler import Scheduler
from server.engine.sequence import Sequence
from server.engine.types import EmbedRequest, EngineOutput, FinishReason, GenerateRequest, ScoreRequest
from tests.server.engine.simulated import SimulatedRunner, simulated_decode
from tests.server.engine.tiny import (
    assert_memory_is_free,
    bytes_for,
    collect,
    drain,
    engine_config,
    oracle,
    random_prompt,
    request,
    run,
    tiny_config,
    tiny_network,
)

EOS = frozenset({5})
NUMBERS = (None, 1, 3, 4)  # of experts; the network's own is 2


def simulate(asked: Tokens[GenerateRequest], tokens_per_step: dict[str, int], **changes: Any) -> list[EngineOutput]:
    """Outputs of a scheduler whose runner gives each sequence its own number of tokens per step."""
    layout = CacheLayout(4, changes.pop("blocks", 60), 6, 6, True, True)
    values = {"max_num_seqs": 6, "max_num_batched_tokens": 16, "block_size": 4, "snapshot_interval": 6}
    config = EngineConfig(40, EOS, **(values | changes))
    scheduler = Scheduler(config, layout, clock=count(1.0).__next__)

    def per_step(sequence: Sequence) -> int:
        return tokens_per_step[sequence.request_id]

    runner = SimulatedRunner(layout, per_step)
    for each in asked:
        scheduler.add(each)
    outputs = []
    while scheduler.has_unfinished:
        batch = scheduler.schedule()
        assert sum(sequence.num_scheduled_tokens for sequence in batch.sequences) <= config.max_num_batched_tokens
        outputs += scheduler.update(batch, *runner.step(scheduler, batch))
    assert scheduler.stats.generation_tokens == sum(len(output.token_ids) for output in outputs)
    return outputs


def test_two_tokens_a_step_for_one_sequence_and_one_for_another() -> None:
    asked = [request("two", [0, 1, 2], 9, ignore_eos=True), request("one", [3, 1], 9, ignore_eos=True)]
    outputs = simulate(asked, {"two": 2, "one": 1})
    lengths = {name: [len(o.token_ids) for o in outputs if o.request_id == name] for name in ("two", "one")}
    assert lengths == {"two": [2, 2, 2, 2, 1], "one": [1] * 9}
    results = collect(outputs)
    for each in asked:
        assert results[each.request_id].token_ids == simulated_decode(each.prompt_token_ids, 9)


@pytest.mark.parametrize("blocks", [10, 12, 60])
@pytest.mark.parametrize("budget", [6, 7, 16])
def test_any_width_gives_the_tokens_of_width_one(blocks: int, budget: int) -> None:
    """With ends inside a tuple, full blocks and preemption. Tokens after an end are dropped."""
    rng = np.random.default_rng(blocks)
    asked = [request(f"r{i}", rng.integers(0, 5, 1 + i).tolist(), 3 + 4 * i, ignore_eos=i > 3) for i in range(6)]
    width = {each.request_id: 1 + number % 4 for number, each in enumerate(asked)}
    results = collect(simulate(asked, width, blocks=blocks, max_num_batched_tokens=budget))
    ended = 0
    for each in asked:
        ends = frozenset() if each.sampling.ignore_eos else EOS
        expected = simulated_decode(each.prompt_token_ids, each.sampling.max_tokens, ends)
        assert results[each.request_id].token_ids == expected
        ended += expected[-1] in ends
        reason = FinishReason.STOP if expected[-1] in ends else FinishReason.LENGTH
        assert results[each.request_id].finish_reason is reason
    assert 0 < ended < len(asked), "the requests are to end in both ways"


def test_logprobs_are_cut_with_their_tokens() -> None:
    (output,) = simulate([request("a", [0, 1, 2], 3, ignore_eos=True, logprobs=1)], {"a": 5})
    assert [entry.token_id for entry in output.logprobs] == list(output.token_ids)
    assert len(output.token_ids) == 3


def test_the_simulation_notices_tokens_that_are_not_computed() -> None:
    """Negative control: of two new tokens both must be computed before the next ones are sampled."""
    layout = CacheLayout(4, 20, 2, 0, True, True)
    scheduler = Scheduler(
        EngineConfig(40, max_num_seqs=2, max_num_batched_tokens=16, block_size=4), layout, clock=count(1.0).__next__
    )
    runner = SimulatedRunner(layout, lambda sequence: 2)
    scheduler.add(request("a", [0, 1, 2], 9))
    batch = scheduler.schedule()
    scheduler.update(batch, *runner.step(scheduler, batch))
    batch = scheduler.schedule()
    batch.sequences[0].num_computed_tokens += 1
    batch.sequences[0].num_scheduled_tokens -= 1
    with pytest.raises(AssertionError):
        runner.step(scheduler, batch)


@pytest.mark.parametrize("changes", [{}, {"max_prefill_chunk": 5}, {"prefix_caching": False}], ids=str)
def test_an_embed_request_ends_with_a_vector_and_no_tokens(network: CausalLM, changes: dict[str, Any]) -> None:
    rng = np.random.default_rng(2)
    prompts = [random_prompt(rng, length) for length in (1, 16, 37)]
    engine = Engine(network, engine_config(**changes))
    requests = [EmbedRequest(f"e{i}", prompt) for i, prompt in enumerate(prompts)]
    beside = request("g", prompts[2], 6)
    for _ in range(2):  # the second time from the prefix cache
        results = run(engine, [*requests, beside])
        for asked, prompt in zip(requests, prompts, strict=True):
            result = results[asked.request_id]
            with torch.inference_mode():
                expected = sequence_hidden(network, prompt)[-1].float().tolist()
            assert result.embedding == tuple(expected)
            assert (result.token_ids, result.finish_reason) == ((), FinishReason.STOP)
            assert result.times is not None
            assert result.times.first_token is None
        assert results["g"].token_ids == oracle(network, beside)
        assert results["g"].embedding == ()
    assert engine.stats().generation_tokens == 12
    assert_memory_is_free(engine)


def test_an_embedding_that_is_not_finite_is_an_error() -> None:
    network = tiny_network()
    with torch.no_grad():
        network.embedding.weight[100] = float("nan")
    result = run(Engine(network, engine_config()), [EmbedRequest("e", (5, 100))])["e"]
    assert (result.finish_reason, result.embedding) == (FinishReason.ERROR, ())


def test_embeddings_survive_preemption(network: CausalLM) -> None:
    small = {"max_num_seqs": 4, "max_model_len": 64, "block_size": 8, "prefix_caching": False, "max_prefill_chunk": 1}
    budget = bytes_for(network, engine_config(**small), blocks=9)
    engine = Engine(network, engine_config(cache_bytes=budget, **small))
    rng = np.random.default_rng(9)
    engine.submit(request("first", random_prompt(rng, 15), 40))
    for _ in range(15):
        engine.step()
    prompt = random_prompt(rng, 40)
    engine.submit(EmbedRequest("e", prompt))
    results = drain(engine)
    assert engine.stats().preemptions > 0
    with torch.inference_mode():
        assert results["e"].embedding == tuple(sequence_hidden(network, prompt)[-1].float().tolist())


def test_a_score_request_has_the_scores_of_the_prompt_and_no_tokens(network: CausalLM) -> None:
    prompt = random_prompt(np.random.default_rng(8), 40)
    asked = ScoreRequest("s", prompt, 2, boundaries=(30,))
    result = run(Engine(network, engine_config()), [asked])["s"]
    assert [entry.logprob for entry in result.prompt_logprobs] == sequence_logprobs(network, prompt).tolist()[29:]
    assert {len(entry.top) for entry in result.prompt_logprobs} == {2}
    assert (result.token_ids, result.finish_reason) == ((), FinishReason.LENGTH)


@pytest.mark.parametrize("length", [9, 40], ids=["within a block", "over blocks"])
def test_a_salt_separates_equal_prompts_and_equal_salts_share(network: CausalLM, length: int) -> None:
    prompt = random_prompt(np.random.default_rng(4), length)
    engine = Engine(network, engine_config(snapshot_interval=8))
    results = [
        run(engine, [request("r", prompt, 5, cache_salt=salt)])["r"] for salt in ("", "one", "two", "one", "", "two")
    ]
    assert [result.num_cached_tokens > 0 for result in results] == [False] * 3 + [True] * 3
    assert {result.token_ids for result in results} == {oracle(network, request("r", prompt, 5))}


def test_each_request_may_have_its_own_number_of_experts(network: CausalLM) -> None:
    """Side by side in one batch and from the prefix cache, the tokens are those of a network with that number."""
    networks = {k: network if k is None else tiny_network(with_experts_per_token(tiny_config(), k)) for k in NUMBERS}
    rng = np.random.default_rng(6)
    shared = random_prompt(rng, 20)
    prompts = [shared + random_prompt(rng, 5) for _ in NUMBERS]
    engine = Engine(network, engine_config())
    for prompt in prompts:
        requests = {k: request(str(k), prompt, 8, experts_per_token=k) for k in NUMBERS}
        for _ in range(2):
            results = run(engine, requests.values())
            for k, asked in requests.items():
                assert results[asked.request_id].token_ids == oracle(networks[k], asked)
    assert engine.stats().prefix_cache_hits > 0
    expected = {oracle(networks[k], request("r", prompts[0], 8)) for k in NUMBERS}
    assert len(expected) >= 3, "the number of experts must matter"
