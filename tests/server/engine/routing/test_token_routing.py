"""The routing that requests get back is that of the network alone, however its tokens were computed."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from model.config import (
    ExpertThresholdConfig,
    GroupLimit,
    HashConfig,
    ReluConfig,
    RouterConfig,
    SigmoidBiasConfig,
    SoftmaxTopKConfig,
    TopKSoftmaxConfig,
    TopPConfig,
)
from model.network import CausalLM
from server.engine.engine import Engine
from server.engine.types import EngineOutput, ReturnedRouting, RoutingParams, ScoreRequest, TokenRouting
from tests.model.batches import whole_batch
from tests.server.engine.tiny import (
    bytes_for,
    engine_config,
    random_prompt,
    request,
    run,
    tiny_config,
    tiny_network,
)

LAYERS = (0, 1, 2, 3)
ALL = RoutingParams(returned=ReturnedRouting(LAYERS, prompt=True))
GENERATED = RoutingParams(returned=ReturnedRouting(LAYERS))
CONFIGS: list[RouterConfig] = [
    SoftmaxTopKConfig(2),
    SoftmaxTopKConfig(2, groups=GroupLimit(2, 1, 1)),
    TopKSoftmaxConfig(2),
    SigmoidBiasConfig(2),
    HashConfig(2),
    ExpertThresholdConfig(2),
    ReluConfig(2),
    TopPConfig(2),
]


@torch.inference_mode()
def routing_of(network: CausalLM, tokens: Sequence[int]) -> list[TokenRouting]:
    """The oracle: the routing of every token, computed in one step without the engine."""
    _, routings = network(whole_batch(network, torch.tensor(tokens)))
    found = []
    for token in range(len(tokens)):
        layers = []
        for routing in routings:
            assert routing is not None
            pairs = zip(routing.experts_TK[token].tolist(), _rounded(routing.weights_TK[token]), strict=True)
            layers.append(sorted(((e, g) for e, g in pairs if g), key=lambda pair: -pair[1]))
        experts = tuple(tuple(expert for expert, _ in layer) for layer in layers)
        found.append(TokenRouting(experts, tuple(tuple(gate for _, gate in layer) for layer in layers)))
    return found


def _rounded(weights_K: Tensor) -> list[float]:
    found: list[float] = weights_K.double().round(decimals=9).tolist()
    return found


def check(network: CausalLM, prompt: Sequence[int], result: EngineOutput, *, with_prompt: bool = True) -> None:
    expected = routing_of(network, [*prompt, *result.token_ids])
    assert list(result.routing) == expected[len(prompt) - 1 : -1]
    assert list(result.prompt_routing) == (expected[: len(prompt)] if with_prompt else [])


@pytest.mark.compiled_kernels
def test_in_batches_chunks_and_graphs_it_is_that_of_the_network(network: CausalLM) -> None:
    rng = np.random.default_rng(0)
    prompts = [random_prompt(rng, length) for length in (1, 9, 40, 33)]
    engine = Engine(network, engine_config(max_prefill_chunk=7))
    asked = [request(str(index), prompt, 12, routing=ALL) for index, prompt in enumerate(prompts)]
    results = run(engine, [*asked, request("other", prompts[1], 20)])
    for index, prompt in enumerate(prompts):
        check(network, prompt, results[str(index)])
    assert (results["other"].routing, results["other"].prompt_routing) == ((), ())
    assert engine.runner.decode_graphs._captured, "some steps were replayed"


@pytest.mark.compiled_kernels
@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_of_every_router(config: RouterConfig) -> None:
    network = tiny_network(tiny_config(router=config))
    prompt = random_prompt(np.random.default_rng(1), 20)
    engine = Engine(network, engine_config(max_prefill_chunk=6))
    check(network, prompt, run(engine, [request("a", prompt, 6, routing=ALL), request("b", prompt[:5], 8)])["a"])


@pytest.mark.compiled_kernels
def test_the_oracle_can_fail(network: CausalLM) -> None:
    """Negative control: the experts of other tokens are others."""
    prompt = random_prompt(np.random.default_rng(2), 20)
    result = run(Engine(network, engine_config()), [request("a", prompt, 6, routing=ALL)])["a"]
    with pytest.raises(AssertionError):
        check(network, prompt[::-1], result)


@pytest.mark.compiled_kernels
@pytest.mark.parametrize("prefix_caching", [False, True])
def test_after_preemption(network: CausalLM, prefix_caching: bool) -> None:
    rng = np.random.default_rng(3)
    config = engine_config(max_num_seqs=4, prefix_caching=prefix_caching, max_model_len=96, max_num_batched_tokens=16)
    engine = Engine(network, replace(config, cache_bytes=bytes_for(network, config, blocks=12), snapshot_share=0.0))
    asked = {str(i): random_prompt(rng, 20 + 3 * i) for i in range(4)}
    results = run(engine, [request(name, prompt, 50, routing=ALL) for name, prompt in asked.items()])
    assert engine.stats().preemptions > 0
    for name, prompt in asked.items():
        check(network, prompt, results[name])


@pytest.mark.compiled_kernels
def test_a_cached_prefix_is_computed_anew_only_for_the_prompt_s_routing(network: CausalLM) -> None:
    prompt = random_prompt(np.random.default_rng(4), 70)
    engine = Engine(network, engine_config(snapshot_interval=16))
    run(engine, [request("first", prompt, 4)])
    generated = run(engine, [request("generated", prompt, 4, routing=GENERATED)])["generated"]
    assert generated.num_cached_tokens > 0
    check(network, prompt, generated, with_prompt=False)
    whole = run(engine, [request("whole", prompt, 4, routing=ALL)])["whole"]
    assert whole.num_cached_tokens == 0
    check(network, prompt, whole)


@pytest.mark.compiled_kernels
@pytest.mark.parametrize("routing", [ALL, GENERATED], ids=["prompt", "generated"])
def test_of_a_beam_search_it_is_that_of_the_answer(network: CausalLM, routing: RoutingParams) -> None:
    rng = np.random.default_rng(5)
    engine = Engine(network, engine_config(eos_token_ids=frozenset({5, 9})))
    asked = {str(i): random_prompt(rng, 10 + i) for i in range(3)}
    requests = [request(name, prompt, 12, beam_width=3, routing=routing) for name, prompt in asked.items()]
    for name, result in run(engine, requests).items():
        check(network, asked[name], result, with_prompt=routing is ALL)


def test_a_score_request_gets_that_of_its_prompt(network: CausalLM) -> None:
    prompt = random_prompt(np.random.default_rng(6), 12)
    result = run(Engine(network, engine_config()), [ScoreRequest("s", prompt, routing=ALL)])["s"]
    assert list(result.prompt_routing) == routing_of(network, prompt)
    assert result.routing == ()


def test_layers_and_the_largest_gates_can_be_chosen(network: CausalLM) -> None:
    prompt = random_prompt(np.random.default_rng(7), 8)
    few = RoutingParams(returned=ReturnedRouting((2, 0), top=1))
    results = run(
        Engine(network, engine_config()),
        [request("all", prompt, 5, routing=GENERATED), request("few", prompt, 5, routing=few)],
    )
    expected = [
        TokenRouting(
            tuple(token.experts[layer][:1] for layer in (2, 0)), tuple(token.gates[layer][:1] for layer in (2, 0))
        )
        for token in results["all"].routing
    ]
    assert list(results["few"].routing) == expected


@pytest.mark.compiled_kernels
def test_asking_changes_no_token_and_each_output_has_its_own(network: CausalLM) -> None:
    prompt = random_prompt(np.random.default_rng(8), 30)
    plain = run(Engine(network, engine_config()), [request("r", prompt, 20)])["r"]
    engine = Engine(network, engine_config())
    engine.submit(request("r", prompt, 20, routing=ALL))
    outputs = []
    while engine.has_unfinished:
        outputs += engine.step()
    assert sum((output.token_ids for output in outputs), ()) == plain.token_ids
    assert [len(output.routing) for output in outputs] == [len(output.token_ids) for output in outputs]
    assert [bool(output.prompt_routing) for output in outputs] == [True] + [False] * (len(outputs) - 1)


@pytest.mark.compiled_kernels
@pytest.mark.parametrize("config", [config for config in CONFIGS if not isinstance(config, HashConfig)], ids=repr)
def test_masked_experts_get_no_token_and_neighbours_change_no_bit(config: RouterConfig) -> None:
    network = tiny_network(tiny_config(router=config))
    prompt = random_prompt(np.random.default_rng(9), 25)
    plain = run(Engine(network, engine_config()), [request("plain", prompt, 8, routing=ALL)])["plain"]
    masks = ((0, (3,)), (2, (0, 1)))
    engine = Engine(network, engine_config(max_prefill_chunk=9))
    requests = [request("plain", prompt, 8, routing=ALL)]
    requests.append(request("masked", prompt, 8, routing=replace(ALL, masked_experts=masks)))
    for _ in range(2):  # the second time with cached prefixes
        results = run(engine, [replace(r, request_id=r.request_id) for r in requests])
        assert replace(results["plain"], times=None) == replace(plain, times=None)
        masked = results["masked"]
        for token in (*masked.prompt_routing, *masked.routing):
            assert all(set(token.experts[layer]).isdisjoint(experts) for layer, experts in masks)
        assert masked.prompt_routing != plain.prompt_routing


@pytest.mark.parametrize(
    ("masked", "words"),
    [
        (((9, (0,)),), "names layer 9: those with experts are 0, 1, 2, 3"),
        (((1, (4,)),), "names expert 4 of layer 1: there are 0 to 3"),
        (((1, (0, 1, 2)),), "leaves too few experts in layer 1: a token needs 2"),
    ],
)
def test_masks_that_cannot_be_are_refused(
    network: CausalLM, masked: tuple[tuple[int, tuple[int, ...]]], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        Engine(network, engine_config()).check(request("r", [5], routing=RoutingParams(masked_experts=masked)))


def test_a_hash_router_has_no_masks() -> None:
    engine = Engine(tiny_network(tiny_config(router=HashConfig(2))), engine_config())
    with pytest.raises(ValueError, match="hash router"):
        engine.check(request("r", [5], routing=RoutingParams(masked_experts=((0, (1,)),))))
