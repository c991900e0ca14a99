"""The engine against the naive decoder, token by token, and what happens when something goes wrong."""

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from model.config import (
    ExpertThresholdConfig,
    HashConfig,
    ModelConfig,
    ReluConfig,
    SigmoidBiasConfig,
    SoftmaxTopKConfig,
    TopPConfig,
)
from model.generate import sequence_logprobs
from model.kernels.kernel_graph import KernelGraph
from model.network import CausalLM
from server.engine.engine import UNHEALTHY_AFTER, Engine
from server.engine.types import FinishReason, GenerateRequest
from tests.server.engine.tiny import (
    VOCAB,
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

EOS = frozenset({2, 7})


def mixed_requests(seed: int, count: int = 8, longest: int = 60) -> list[GenerateRequest]:
    """Prompts of all lengths, some with a common beginning; greedy and sampled ones."""
    rng = np.random.default_rng(seed)
    common = random_prompt(rng, longest // 2)
    requests = []
    for number in range(count):
        prompt = random_prompt(rng, int(rng.integers(1, longest // 2)))
        boundaries: tuple[int, ...] = ()
        if number % 3 == 0:
            prompt, boundaries = common + prompt, (len(common),)
        sampling: dict[str, Any] = {"temperature": 1.0, "seed": number} if number % 2 else {}
        asked = request(f"r{number}", prompt, int(rng.integers(1, 14)), boundaries=boundaries, **sampling)
        requests.append(asked)
    return requests


def assert_equal_to_oracle(network: CausalLM, engine: Engine, requests: list[GenerateRequest]) -> None:
    results = run(engine, requests)
    for asked in requests:
        expected = oracle(network, asked, eos=EOS)
        assert results[asked.request_id].token_ids == expected, asked.request_id
        ended = expected[-1] in EOS
        assert results[asked.request_id].finish_reason is (FinishReason.STOP if ended else FinishReason.LENGTH)
    assert_memory_is_free(engine)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_prefill_chunk": 1},
        {"prefix_caching": False},
        {"block_size": 3, "snapshot_interval": 5},
        {"max_num_seqs": 2},
        {"max_num_batched_tokens": 32, "snapshot_interval": 7},
        {"max_num_batched_tokens": 33, "long_prefill_token_threshold": 8, "max_decode_slowdown": 1.1},
    ],
    ids=str,
)
def test_tokens_equal_the_naive_decoder(network: CausalLM, changes: dict[str, Any]) -> None:
    engine = Engine(network, engine_config(eos_token_ids=EOS, **changes))
    assert_equal_to_oracle(network, engine, mixed_requests(1))
    repeated = mixed_requests(1)
    assert_equal_to_oracle(network, engine, repeated)  # now from the prefix cache
    assert (engine.stats().prefix_cache_hits > 0) == engine.config.prefix_caching


@pytest.mark.parametrize("prefix_caching", [False, True])
def test_preemption_changes_no_token(network: CausalLM, prefix_caching: bool) -> None:
    small = {"max_model_len": 40, "max_num_seqs": 12, "block_size": 4, "prefix_caching": prefix_caching}
    budget = bytes_for(network, engine_config(**small), blocks=100 if prefix_caching else 20)
    engine = Engine(network, engine_config(cache_bytes=budget, snapshot_share=0.9, **small))
    rng = np.random.default_rng(5)
    requests = [request(f"r{i}", random_prompt(rng, 7), 28, temperature=1.0, seed=i) for i in range(12)]
    results = run(engine, requests)
    assert engine.stats().preemptions > 0
    for asked in requests[::3]:
        assert results[asked.request_id].token_ids == oracle(network, asked)
    assert_memory_is_free(engine)


ROUTERS = (
    SoftmaxTopKConfig(2),
    SoftmaxTopKConfig(1, False),
    SigmoidBiasConfig(2),
    HashConfig(2),
    ExpertThresholdConfig(2),
    ReluConfig(2),
    TopPConfig(2),
)


@pytest.mark.parametrize(
    "config",
    [
        *(tiny_config(router=router) for router in ROUTERS),
        tiny_config(attention_every=1, num_layers=2),  # no recurrence: no snapshots
        tiny_config(attention_every=9, num_layers=2),  # no attention: no blocks
    ],
    ids=["softmax", "softmax1", "sigmoid", "hash", "threshold", "relu", "top-p", "attention", "recurrence"],
)
def test_every_layer_kind_equals_the_naive_decoder(config: ModelConfig) -> None:
    network = tiny_network(config)
    for changes in ({}, {"max_prefill_chunk": 3, "snapshot_interval": 8}):
        engine = Engine(network, engine_config(eos_token_ids=EOS, **changes))
        assert_equal_to_oracle(network, engine, mixed_requests(2, count=6, longest=40))
        assert_equal_to_oracle(network, engine, mixed_requests(2, count=6, longest=40))
        assert engine.stats().prefix_cache_hits > 0


def test_float32_equals_the_naive_decoder() -> None:
    network = tiny_network(dtype=torch.float32)
    assert_equal_to_oracle(network, Engine(network, engine_config(eos_token_ids=EOS)), mixed_requests(3))


def test_others_go_on_after_the_mark_of_an_answer(network: CausalLM) -> None:
    prompt = random_prompt(np.random.default_rng(7), 21)
    answer = run(Engine(network, engine_config()), [request("a", prompt, 12)])["a"].token_ids
    place = next(place for place, token in enumerate(answer[:8]) if token not in answer[:place])
    for marks, cached in ((frozenset({answer[place]}), len(prompt) + place + 1), (frozenset[int](), len(prompt))):
        engine = Engine(network, engine_config())
        run(engine, [request("a", prompt, 12, snapshot_token_ids=marks)])
        other = request("b", (*prompt, *answer[: place + 1], 3, 4, 5), 6)
        result = run(engine, [other])["b"]
        assert result.num_cached_tokens == cached
        assert result.token_ids == oracle(network, other)


def test_aborts_free_memory_and_touch_nobody_else(network: CausalLM) -> None:
    engine = Engine(network, engine_config(eos_token_ids=EOS, max_num_seqs=4))
    requests = mixed_requests(4, count=9)
    for asked in requests:
        engine.submit(asked)
    outputs = engine.step()
    for name in ("r0", "r4", "r8"):  # running and waiting ones
        outputs += engine.abort(name)
    outputs += engine.step()
    outputs += engine.abort("r1")
    results = collect(outputs + list(drain(engine).values()))
    for asked in requests:
        result, expected = results[asked.request_id], oracle(network, asked, eos=EOS)
        if result.finish_reason is FinishReason.ABORT:
            assert result.token_ids == expected[: len(result.token_ids)]
        else:
            assert result.token_ids[-1] == expected[-1]
    aborted = [name for name, result in results.items() if result.finish_reason is FinishReason.ABORT]
    assert {"r8"} <= set(aborted) <= {"r0", "r1", "r4", "r8"}  # r8 was waiting, the others may have been done
    assert engine.abort("r0") == []
    assert engine.abort("never seen") == []
    assert_memory_is_free(engine)


def test_memory_of_others_is_never_seen(network: CausalLM) -> None:
    """Canary: all memory that a sequence does not own holds NaN, and its result does not change."""
    engine = Engine(network, engine_config(max_num_seqs=2, prefix_caching=False))
    cache = engine.runner._cache
    for tensor in [*cache._keys.values(), *cache._values.values(), *cache._state_tensors()]:
        tensor.fill_(float("nan"))
    asked = request("a", random_prompt(np.random.default_rng(0), 21), 8, logprobs=2)
    fresh = run(Engine(network, engine_config()), [asked])
    assert run(engine, [asked]) | {"a": fresh["a"]} == fresh
    assert run(engine, [asked])["a"].logprobs == fresh["a"].logprobs


@pytest.mark.compiled_kernels
def test_memory_of_others_is_never_seen_through_the_prefix_cache(network: CausalLM) -> None:
    """The same canary in the rows and blocks of snapshots: a hit reads only what was saved."""
    engine = Engine(network, engine_config(max_num_seqs=2, snapshot_interval=8))
    cache = engine.runner._cache
    for tensor in [*cache._keys.values(), *cache._values.values(), *cache._state_tensors()]:
        tensor.fill_(float("nan"))
    prompt = random_prompt(np.random.default_rng(0), 37)
    fresh = Engine(network, engine_config(prefix_caching=False))
    for length in (21, 37, 30, 37):
        asked = request("a", prompt[:length], 8, logprobs=2)
        expected, found = run(fresh, [asked])["a"], run(engine, [asked])["a"]
        assert (found.token_ids, found.logprobs) == (expected.token_ids, expected.logprobs)
    assert engine.stats().prefix_cache_hits > 0


def test_the_canary_notices_memory_that_is_not_cleared(network: CausalLM) -> None:
    """Negative control: without clearing rows, the poisoned memory must show."""
    engine = Engine(network, engine_config(prefix_caching=False))
    for tensor in engine.runner._cache._state_tensors():
        tensor.fill_(float("nan"))
    engine.runner._apply = lambda op: None  # type: ignore[method-assign]
    assert run(engine, [request("a", [5, 6, 7])])["a"].finish_reason is FinishReason.ERROR


@pytest.mark.compiled_kernels
@pytest.mark.parametrize("changes", [{}, {"max_prefill_chunk": 1}, {"prefix_caching": False}], ids=str)
def test_prompt_scores_equal_those_of_the_whole_sequence(network: CausalLM, changes: dict[str, Any]) -> None:
    prompt = random_prompt(np.random.default_rng(8), 70)
    expected = sequence_logprobs(network, prompt).tolist()
    engine = Engine(network, engine_config(**changes))
    whole = run(engine, [request("whole", prompt, 0, prompt_logprobs=True)])["whole"]
    assert [entry.token_id for entry in whole.prompt_logprobs] == list(prompt[1:])
    assert [entry.logprob for entry in whole.prompt_logprobs] == expected
    assert (whole.token_ids, whole.finish_reason) == ((), FinishReason.LENGTH)
    for name, cached in (("first", 0), ("second", 59)):
        asked = request(name, prompt, 3, prompt_logprobs=True, boundaries=(4, 60), logprobs=2)
        part = run(engine, [asked])[name]
        assert [entry.logprob for entry in part.prompt_logprobs] == expected[59:]
        assert all(len(entry.top) == 2 for entry in part.prompt_logprobs)
        if engine.config.prefix_caching and name == "second":
            assert part.num_cached_tokens == cached
        assert part.token_ids == oracle(network, asked)


@pytest.mark.compiled_kernels
def test_prompt_scores_survive_preemption(network: CausalLM) -> None:
    small = {"max_num_seqs": 4, "max_model_len": 64, "block_size": 8, "prefix_caching": False, "max_prefill_chunk": 1}
    budget = bytes_for(network, engine_config(**small), blocks=9)
    engine = Engine(network, engine_config(cache_bytes=budget, **small))
    rng = np.random.default_rng(9)
    first = request("first", random_prompt(rng, 15), 40)
    scored = request("scored", random_prompt(rng, 40), 2, prompt_logprobs=True)
    engine.submit(first)
    for _ in range(15):
        engine.step()
    engine.submit(scored)
    results = drain(engine)
    assert engine.stats().preemptions > 0
    expected = sequence_logprobs(network, scored.prompt_token_ids).tolist()
    assert [entry.logprob for entry in results["scored"].prompt_logprobs] == expected
    assert results["scored"].token_ids == oracle(network, scored)


def test_a_poisonous_token_fails_its_own_request_only() -> None:
    network = tiny_network()
    with torch.no_grad():
        network.embedding.weight[100] = float("nan")
    engine = Engine(network, engine_config())
    good = [request(f"good{i}", [5, 6, 7 + i], 6) for i in range(3)]
    results = run(engine, [good[0], request("bad", [5, 100, 7]), *good[1:]])
    assert results["bad"].finish_reason is FinishReason.ERROR
    assert "not finite" in (results["bad"].error or "")
    for asked in good:
        assert results[asked.request_id].token_ids == oracle(network, asked)
    scored = run(engine, [request("scored", [5, 100, 7], 0, prompt_logprobs=True)])["scored"]
    assert scored.finish_reason is FinishReason.ERROR
    assert engine.stats().healthy
    assert_memory_is_free(engine)


def failing(network: CausalLM, fails: Callable[[int], bool]) -> CausalLM:
    """A network whose n-th call raises when `fails(n)`."""
    forward, calls = network.forward, iter(range(10**6))

    def sometimes(batch: Any) -> tuple[Tensor, Any]:
        if fails(next(calls)):
            raise RuntimeError("the machine is on fire")
        return forward(batch)

    network.forward = sometimes  # type: ignore[method-assign]
    return network


def test_a_failed_step_ends_its_sequences_and_the_engine_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    network = failing(tiny_network(), lambda call: call == 2)
    engine = Engine(network, engine_config(max_num_seqs=2))
    requests = [request(f"r{i}", [5, 6, 7 + i], 6) for i in range(4)]
    results = run(engine, requests)
    assert [results[f"r{i}"].finish_reason for i in range(4)] == [FinishReason.ERROR] * 2 + [FinishReason.LENGTH] * 2
    assert "on fire" not in (results["r0"].error or "")  # for the log, not for the client
    assert "on fire" in caplog.text
    assert engine.stats().step_failures == 1
    assert engine.stats().healthy
    assert [results[f"r{i}"].token_ids for i in (2, 3)] == [oracle(network, requests[i]) for i in (2, 3)]
    assert_memory_is_free(engine)


def test_other_threads_are_woken_once_a_step_before_its_kernels(network: CausalLM) -> None:
    """In steps that are computed, captured and replayed, and where there is nothing to compute."""
    engine = Engine(network, engine_config())
    events: list[str] = []
    compute, replay = network.forward, KernelGraph.replay

    def forward(batch: Any) -> Any:
        events.append("kernels")
        return compute(batch)

    def replayed(graph: KernelGraph) -> None:
        events.append("kernels")
        replay(graph)

    engine.step(lambda: events.append("wake"))
    assert events == ["wake"]
    engine.submit(request("r", [5, 6, 7], 6))
    with patch.object(network, "forward", forward), patch.object(KernelGraph, "replay", replayed):
        while engine.has_unfinished:
            engine.step(lambda: events.append("wake"))
    assert events[1:] == ["wake", "kernels"] * 6


def test_the_tokens_of_each_step_are_counted() -> None:
    engine = Engine(tiny_network(), engine_config())
    run(engine, [request("r", [5, 6, 7, 8], 3)])
    steps = engine.stats().step_tokens
    assert steps.total == 4 + 1 + 1  # the prompt, and each new token but the last
    assert steps.counts[:2] == (2, 1)  # steps of one token, and of up to eight


def test_many_failures_in_a_row_are_unhealthy_until_a_step_succeeds() -> None:
    network = failing(tiny_network(), lambda call: call < UNHEALTHY_AFTER)
    engine = Engine(network, engine_config())
    health = []
    for number in range(UNHEALTHY_AFTER + 1):
        run(engine, [request(f"r{number}", [5, 6], 1)])
        health.append(engine.stats().healthy)
    assert health == [True] * (UNHEALTHY_AFTER - 1) + [False, True]


def test_stop_tokens_and_ignored_ends(network: CausalLM) -> None:
    prompt = random_prompt(np.random.default_rng(11), 9)
    free = oracle(network, request("free", prompt, 10))
    third = free[2]
    assert third not in free[:2]
    engine = Engine(network, engine_config(eos_token_ids=frozenset({third})))
    results = run(
        engine,
        [
            request("eos", prompt, 10),
            request("ignored", prompt, 10, ignore_eos=True),
            request("stop", prompt, 10, ignore_eos=True, stop_token_ids=frozenset({free[1]})),
            request("forced", prompt, 10, min_tokens=5),
        ],
    )
    assert (results["eos"].token_ids, results["eos"].finish_reason) == (free[:3], FinishReason.STOP)
    assert (results["ignored"].token_ids, results["ignored"].finish_reason) == (free, FinishReason.LENGTH)
    assert (results["stop"].token_ids, results["stop"].finish_reason) == (free[:2], FinishReason.STOP)
    assert third not in results["forced"].token_ids[:5]
    assert len(results["forced"].token_ids) >= 5


def test_a_request_id_in_use_is_refused(network: CausalLM) -> None:
    engine = Engine(network, engine_config())
    engine.submit(request("a", [5]))
    with pytest.raises(ValueError, match="'a' is in use"):
        engine.submit(request("a", [6]))
    drain(engine)
    engine.submit(request("a", [6]))
    assert list(drain(engine)) == ["a"]


def test_the_longest_sequence_fits(network: CausalLM) -> None:
    small = {"max_num_seqs": 2, "max_model_len": 64}
    budget = bytes_for(network, engine_config(**small), blocks=4)
    engine = Engine(network, engine_config(cache_bytes=budget, **small))
    results = run(engine, [request(f"r{i}", range(3, 53), 14) for i in range(2)])
    assert [len(result.token_ids) for result in results.values()] == [14] * 2
    assert results["r0"].token_ids == results["r1"].token_ids


def test_stats_count_what_was_served(network: CausalLM) -> None:
    engine = Engine(network, engine_config())
    run(engine, [request(f"r{i}", [5, 6, 7, 8 + i], 5) for i in range(3)])
    stats = engine.stats()
    assert (stats.prompt_tokens, stats.generation_tokens) == (12, 15)
    assert stats.steps == 5
    assert [load.layer for load in stats.layers] == [0, 1, 2, 3]
    computed = 12 + 15 - 3  # the last token of each is not computed
    for load in stats.layers:
        assert sum(load.tokens_per_expert) == 2 * computed  # top 2
        assert 0 < load.entropy <= np.log(4) + 1e-6
        mean = 2 * computed / 4
        assert load.imbalance == pytest.approx((max(load.tokens_per_expert) - mean) / mean)


def test_more_context_than_the_network_has_is_refused(network: CausalLM) -> None:
    with pytest.raises(ValueError, match="max_model_len is 257, but this network knows 256"):
        Engine(network, engine_config(max_model_len=257))


def test_an_end_token_outside_the_vocabulary_is_refused_at_start(network: CausalLM) -> None:
    with pytest.raises(ValueError, match=f"{VOCAB} is to end answers, but the vocabulary has {VOCAB} tokens"):
        Engine(network, engine_config(eos_token_ids=frozenset({VOCAB})))
