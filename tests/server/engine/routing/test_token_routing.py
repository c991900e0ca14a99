"""The routing that requests get back is that of the network alone, however its tokens were computed."""

from collections.abc import Mapping
from collections.abc import Sequence as Tokens
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
    SoftmaxBiasConfig,
    SoftmaxTopKConfig,
    SparseMixerConfig,
    TopKSoftmaxConfig,
    TopPConfig,
)
from model.network import CausalLM
from server.engine.engine import Engine
from server.engine.routing.adaptive_experts import ExpertRange
from server.engine.routing.step_routing import StepRouting
from server.engine.routing.token_routing import routing_by_request
from server.engine.sequence import Sequence
from server.engine.types import EngineOutput, ExpertsByLayer, ReturnedRouting, RoutingParams, ScoreRequest, TokenRouting
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
FIXED: list[RouterConfig] = [
    SoftmaxTopKConfig(2),
    SoftmaxTopKConfig(1, renormalize=False),
    SoftmaxTopKConfig(2, groups=GroupLimit(2, 1, 1)),
    TopKSoftmaxConfig(2),
    SigmoidBiasConfig(2, groups=GroupLimit(2, 1, 2)),
    SoftmaxBiasConfig(2),
    SparseMixerConfig(2, jitter=0.5),
]


@torch.inference_mode()
def routing_of(
    network: CausalLM, tokens: Tokens[int], forced: Mapping[int, Tokens[int]] | None = None
) -> list[TokenRouting]:
    """The oracle: the routing of every token, computed in one step without the engine."""
    masks, numbers = {}, {}
    for layer, only in (forced or {}).items():
        masks[layer] = torch.ones(len(tokens), network.num_experts[layer], dtype=torch.bool)
        masks[layer][:, list(only)] = False
        numbers[layer] = torch.full((len(tokens),), len(only))
    batch = replace(whole_batch(network, torch.tensor(tokens)), masks=masks, experts_by_layer=numbers)
    _, routings = network(batch)
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


def check(network: CausalLM, prompt: Tokens[int], result: EngineOutput, *, with_prompt: bool = True) -> None:
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


def told(weights_LTK: Tensor, experts_LTK: Tensor, returned: ReturnedRouting) -> list[TokenRouting]:
    """What a step with these choices tells a sequence that asks for all of its tokens."""
    num_tokens, logits_LTE = weights_LTK.shape[1], torch.zeros(*weights_LTK.shape[:2], 4)
    sequence = Sequence(request("r", range(num_tokens), routing=RoutingParams(returned=returned)), 0, 0, 0.0)
    sequence.num_scheduled_tokens = num_tokens
    step = StepRouting(tuple(range(len(weights_LTK))), weights_LTK, experts_LTK, logits_LTE)
    return routing_by_request([sequence], step)["r"]


def test_the_order_in_which_a_router_lists_its_choices_does_not_matter() -> None:
    """Those that it lists by gate are told as they are; a step with any other list is sorted."""
    weights_LTK, order_LTK = torch.rand(3, 5, 4, generator=torch.Generator().manual_seed(0)).sort(-1, descending=True)
    shuffled = torch.tensor([2, 0, 3, 1])
    for asked in (ReturnedRouting((0, 1, 2), prompt=True), ReturnedRouting((2, 0), 2, prompt=True)):
        expected = told(weights_LTK, order_LTK, asked)
        assert told(weights_LTK[..., shuffled], order_LTK[..., shuffled], asked) == expected
        assert told(weights_LTK, order_LTK[..., shuffled], asked) != expected, "the comparison can fail"


def test_gates_are_compared_before_they_are_rounded() -> None:
    """Gates that are equal after rounding have an order; one that is rounded to zero is computed, a zero is not."""
    small = torch.tensor(0.001)
    larger = torch.nextafter(small, torch.tensor(1.0))
    weights_LTK = torch.stack([torch.stack([small, larger]), torch.tensor([0.9, 1e-12]), torch.tensor([0.9, 0.0])])[
        None
    ]
    found = told(weights_LTK, torch.tensor([[[3, 1], [2, 0], [2, 0]]]), ReturnedRouting((0,), prompt=True))
    assert [token.experts for token in found] == [((1, 3),), ((2, 0),), ((2,),)]
    assert [token.gates for token in found] == [((0.001, 0.001),), ((0.899999976, 0.0),), ((0.899999976,),)]


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
    masks = ((0, (3,) if getattr(config, "groups", None) is None else (2, 3)), (2, (0, 1)))
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


@pytest.mark.compiled_kernels
@pytest.mark.parametrize("config", FIXED, ids=repr)
def test_forced_experts_get_every_token_weighed_as_if_there_were_no_others(config: RouterConfig) -> None:
    """The oracle is the network alone with the other experts masked and that number of experts."""
    network = tiny_network(tiny_config(router=config))
    prompt = random_prompt(np.random.default_rng(9), 25)
    forced = {0: (1, 3), 2: (0,)} if getattr(config, "groups", None) is None else {0: (2, 3), 2: (0,)}
    plain = run(Engine(network, engine_config()), [request("plain", prompt, 8, routing=ALL)])["plain"]
    engine = Engine(network, engine_config(max_prefill_chunk=9))
    for _ in range(2):  # the second time with cached prefixes
        asked = replace(ALL, forced_experts=tuple(forced.items()))
        results = run(engine, [request("plain", prompt, 8, routing=ALL), request("forced", prompt, 8, routing=asked)])
        assert replace(results["plain"], times=None) == replace(plain, times=None)
        result = results["forced"]
        expected = routing_of(network, [*prompt, *result.token_ids], forced)
        assert list(result.prompt_routing) == expected[: len(prompt)]
        assert list(result.routing) == expected[len(prompt) - 1 : -1]
        for token in (*result.prompt_routing, *result.routing):
            assert all(sorted(token.experts[layer]) == list(experts) for layer, experts in forced.items())


@pytest.mark.compiled_kernels
def test_all_experts_of_a_layer_can_be_forced_also_in_decode_steps(network: CausalLM) -> None:
    engine = Engine(network, engine_config())
    asked = replace(GENERATED, forced_experts=((1, (0, 1, 2, 3)),))
    run(engine, [request("captured", [5, 6], 9)])
    result = run(engine, [request("r", [5, 6, 7], 8, routing=asked)])["r"]
    assert [sorted(token.experts[1]) for token in result.routing] == [[0, 1, 2, 3]] * 8
    assert all(len(token.experts[0]) == 2 for token in result.routing)


@pytest.mark.parametrize(
    ("forced", "masked", "router", "words"),
    [
        (((9, (0,)),), (), SoftmaxTopKConfig(2), "force_experts names layer 9: those with experts are 0, 1, 2, 3"),
        (((1, (4,)),), (), SoftmaxTopKConfig(2), "force_experts names expert 4 of layer 1"),
        (((1, (0,)),), ((1, (2,)),), SoftmaxTopKConfig(2), "layer 1 is in mask_experts and in force_experts"),
        (((1, (0, 1, 2)),), (), SparseMixerConfig(), "names 3 experts of layer 1: a token can go to 1 to 2"),
        (((1, (0, 2)),), (), SoftmaxTopKConfig(2, groups=GroupLimit(2, 1, 1)), "1 to 2, in 1 of 2 groups"),
        (((1, (0,)),), (), TopPConfig(2), "a TopP router chooses the number of experts itself"),
        (((1, (0,)),), (), HashConfig(2), "hash router"),
    ],
)
def test_experts_that_cannot_be_forced_are_refused(
    forced: ExpertsByLayer, masked: ExpertsByLayer, router: RouterConfig, words: str
) -> None:
    engine = Engine(tiny_network(tiny_config(router=router)), engine_config())
    with pytest.raises(ValueError, match=words):
        engine.check(request("r", [5], routing=RoutingParams(masked_experts=masked, forced_experts=forced)))


@pytest.mark.parametrize("kind", [SoftmaxTopKConfig, SigmoidBiasConfig])
@pytest.mark.compiled_kernels
def test_masks_leave_enough_experts_in_every_group(kind: type[SoftmaxTopKConfig | SigmoidBiasConfig]) -> None:
    """Of 2 groups of 4 experts a token goes to one: to the other one where a group has no experts left."""
    config = tiny_config(router=kind(2, groups=GroupLimit(2, 1, 2)), num_experts=8)
    engine, prompt = Engine(tiny_network(config), engine_config()), random_prompt(np.random.default_rng(9), 25)
    with pytest.raises(ValueError, match="too few experts in layer 1: a token needs 2, which its router limits to gr"):
        engine.check(request("r", prompt, routing=replace(ALL, masked_experts=((1, (0, 1, 2)),))))
    asked = replace(ALL, masked_experts=((1, (0, 1, 2, 3)), (2, (4, 5)), (3, (4, 5, 6, 7, 0, 1))))
    result = run(engine, [request("r", prompt, 8, routing=asked)])["r"]
    for token in (*result.prompt_routing, *result.routing):
        assert [len(experts) for experts in token.experts] == [2] * 4
        assert all(set(token.experts[layer]).isdisjoint(experts) for layer, experts in asked.masked_experts)


def test_masks_leave_as_many_experts_as_the_engine_may_choose(network: CausalLM) -> None:
    engine = Engine(network, engine_config(adaptive_experts=ExpertRange(1, 3, 8)))
    asked = RoutingParams(masked_experts=((1, (0, 1)),))
    with pytest.raises(ValueError, match="too few experts in layer 1: a token needs 3"):
        engine.check(request("r", [5], routing=asked))
    engine.check(request("r", [5], routing=replace(asked, adaptive=False)))


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
