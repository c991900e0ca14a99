"""Routing algorithms: each decides from the token alone; what peeks at other tokens is caught."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
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
from model.layers.router import ROUTERS, Router, Routing, build_router, top_k

CONFIGS: list[RouterConfig] = [
    SoftmaxTopKConfig(2),
    SoftmaxTopKConfig(1, renormalize=False),
    SoftmaxTopKConfig(2, scale=1.5, groups=GroupLimit(4, top_groups=2, best_of=1)),
    TopKSoftmaxConfig(3),
    SigmoidBiasConfig(3, scale=2.5),
    SigmoidBiasConfig(2, renormalize=False, groups=GroupLimit(4, top_groups=1, best_of=2)),
    SoftmaxBiasConfig(3),
    SparseMixerConfig(),
    SparseMixerConfig(1, jitter=0.5),
    HashConfig(2),
    ExpertThresholdConfig(2),
    ReluConfig(2),
    TopPConfig(2),
    TopPConfig(6),
]
VARYING: list[RouterConfig] = [ExpertThresholdConfig(2), ReluConfig(2), TopPConfig(4)]
EXPERTS = 8


class ExpertChoice(Router):
    """Each expert takes its best tokens of the batch: not causal, so never served. The negative control."""

    def forward(self, router_logits_TE: Tensor, token_ids_T: Tensor) -> Routing:
        affinity_TE = router_logits_TE.softmax(-1)
        capacity = max(self.k * len(router_logits_TE) // self.num_experts, 1)
        kept_E = affinity_TE.sort(dim=0, descending=True).values[capacity - 1]
        taken_TE = affinity_TE * (affinity_TE >= kept_E)
        experts_TK = top_k(taken_TE, self.num_experts)
        return Routing(taken_TE.gather(1, experts_TK), experts_TK, router_logits_TE)


def dense(routing: Routing) -> Tensor:
    """Weight of every expert for every token [T, E]."""
    weights_TE = torch.zeros_like(routing.router_logits_TE)
    return weights_TE.scatter_add(1, routing.experts_TK, routing.weights_TK)


def mean_k(routing: Routing) -> float:
    """Computed choices per token."""
    return float((routing.weights_TK > 0).sum()) / len(routing.weights_TK)


def random_input(tokens: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, EXPERTS, generator=generator), torch.randint(0, 500, (tokens,), generator=generator)


def is_tokenwise(router: Router, scores: Tensor, ids: Tensor) -> bool:
    """Whether every token is routed alone as it is among the others, to the last bit."""
    together = dense(router(scores, ids))
    alone = torch.cat([dense(router(scores[t : t + 1], ids[t : t + 1])) for t in range(len(ids))])
    return torch.equal(together, alone)


def test_every_registered_router_is_tested() -> None:
    assert {type(config) for config in CONFIGS} == set(ROUTERS)


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
@given(tokens=st.integers(1, 37), seed=st.integers(0, 1000))
@settings(max_examples=15)
def test_a_token_is_routed_the_same_in_any_company(config: RouterConfig, tokens: int, seed: int) -> None:
    assert is_tokenwise(build_router(config, EXPERTS).eval(), *random_input(tokens, seed))


def test_expert_choice_is_caught() -> None:
    assert not is_tokenwise(ExpertChoice(EXPERTS, 2), *random_input(20, 0))


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_training_and_serving_route_alike(config: RouterConfig) -> None:
    """To the last bit; where serving has a compiled routine of its own, the same experts with weights to rounding."""
    router, (scores, ids) = build_router(config, EXPERTS), random_input(30, 1)
    with torch.no_grad():
        served = dense(router.eval()(scores, ids))
    trained = dense(router.train()(scores, ids))
    if isinstance(config, SoftmaxTopKConfig | TopKSoftmaxConfig):
        assert torch.equal(trained > 0, served > 0)
        torch.testing.assert_close(trained, served, atol=1e-6, rtol=1e-6)
    else:
        assert torch.equal(trained, served)


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_choices_are_distinct_and_dispatch_covers_them(config: RouterConfig) -> None:
    routing = build_router(config, EXPERTS)(*random_input(40, 2))
    assert all(len(set(row)) == len(row) for row in routing.experts_TK.tolist())
    experts_S, order_S = routing.dispatch()
    assert experts_S.tolist() == sorted(experts_S.tolist())
    assert torch.equal(routing.experts_TK.flatten()[order_S], experts_S)
    assert sorted(order_S.tolist()) == routing.weights_TK.flatten().nonzero().flatten().tolist()


def test_softmax_weights() -> None:
    scores, ids = random_input(10, 3)
    plain = build_router(SoftmaxTopKConfig(2, renormalize=False), EXPERTS)(scores, ids)
    torch.testing.assert_close(plain.weights_TK, scores.softmax(-1).topk(2).values)
    summed = build_router(SoftmaxTopKConfig(2), EXPERTS)(scores, ids)
    torch.testing.assert_close(summed.weights_TK.sum(-1), torch.ones(10))
    assert torch.equal(summed.experts_TK, scores.topk(2).indices)


def test_ties_go_to_the_lowest_index() -> None:
    routing = build_router(SoftmaxTopKConfig(3), EXPERTS)(torch.zeros(4, EXPERTS), torch.zeros(4, dtype=torch.int64))
    assert routing.experts_TK.tolist() == [[0, 1, 2]] * 4


def test_the_bias_selects_but_does_not_weigh_and_follows_the_load() -> None:
    router, (scores, ids) = build_router(SigmoidBiasConfig(2), EXPERTS), random_input(10, 4)
    before = router(scores, ids)
    load = torch.zeros(EXPERTS)
    load[5] = 100
    for _ in range(3000):
        router.after_step(load, 100)
    after = router(scores, ids)
    assert 5 not in after.experts_TK
    affinity = scores.sigmoid().gather(1, after.experts_TK)
    torch.testing.assert_close(after.weights_TK, affinity / affinity.sum(-1, keepdim=True))
    assert not torch.equal(before.experts_TK, after.experts_TK)


def test_thresholds_drift_to_the_wanted_mean_number_of_experts() -> None:
    router = build_router(ExpertThresholdConfig(2, ema=0.9), EXPERTS)
    for step in range(100):
        router.regularize(router(*random_input(400, step)), torch.ones(400, dtype=torch.bool))
        router.after_step(torch.zeros(EXPERTS), 100)
    assert 1.8 < mean_k(router(*random_input(2000, 101))) < 2.2


def test_thresholds_are_right_after_one_step() -> None:
    """The average starts with what it sees, not with a guess."""
    router = build_router(ExpertThresholdConfig(2), EXPERTS)
    routing = router(*random_input(2000, 1))
    assert mean_k(routing) > 3
    router.regularize(routing, torch.ones(2000, dtype=torch.bool))
    router.after_step(torch.zeros(EXPERTS), 100)
    assert 1.8 < mean_k(router(*random_input(2000, 2))) < 2.2


def test_padding_does_not_raise_a_threshold() -> None:
    """Padding is alike and can fill an expert's whole share: real tokens would get nothing."""
    router, (scores, ids) = build_router(ExpertThresholdConfig(2), EXPERTS), random_input(2000, 1)
    real = torch.arange(2000) % 3 > 0
    scores[~real] = 10.0
    router.regularize(router(scores, ids), real)
    router.after_step(torch.zeros(EXPERTS), 100)
    assert 1.8 < mean_k(router(*random_input(2000, 2))) < 2.2
    router.regularize(router(scores, ids), torch.ones(2000, dtype=torch.bool))
    router.get_buffer("steps").zero_()
    router.after_step(torch.zeros(EXPERTS), 100)
    assert mean_k(router(*random_input(2000, 2))) == 0  # negative control


@pytest.mark.parametrize("config", VARYING, ids=repr)
def test_the_number_of_experts_varies_and_what_is_not_chosen_is_not_computed(config: RouterConfig) -> None:
    routing = build_router(config, EXPERTS)(*random_input(60, 5))
    chosen_T = (routing.weights_TK > 0).sum(-1)
    assert len(set(chosen_T.tolist())) > 1
    assert len(routing.dispatch()[0]) == int(chosen_T.sum()) < routing.weights_TK.numel()
    assert int(chosen_T.max()) == routing.weights_TK.shape[1]  # no column without a choice


def test_relu_gates_are_the_positive_scores() -> None:
    scores, ids = random_input(40, 6)
    assert torch.equal(dense(build_router(ReluConfig(2), EXPERTS)(scores, ids)), scores.relu())


def test_a_token_that_no_expert_wants_goes_to_none() -> None:
    routing = build_router(ReluConfig(2), EXPERTS)(-torch.ones(3, EXPERTS), torch.zeros(3, dtype=torch.int64))
    assert len(routing.dispatch()[0]) == 0


def test_the_relu_penalty_grows_while_too_many_experts_are_used() -> None:
    router = build_router(ReluConfig(2, penalty=1e-3, growth=4.0, least=5e-4), EXPERTS)
    seen = []
    for pairs in (800, 300, 200, 100, 0, 0, 0):  # of 100 tokens
        router.after_step(torch.full((EXPERTS,), pairs / EXPERTS), 100)
        seen.append(float(router.get_buffer("penalty")))
    # far too many, half too many, right, half too few, none; then it can fall no further
    assert seen == pytest.approx([4e-3, 8e-3, 8e-3, 4e-3, 1e-3, 5e-4, 5e-4])


def test_the_relu_penalty_falls_on_busy_experts_and_not_on_padding() -> None:
    router = build_router(ReluConfig(2, penalty=1.0), EXPERTS)
    scores = -torch.ones(4, EXPERTS)
    scores[:2, 0], scores[0, 1], scores[2:] = 0.5, 0.5, 9.0
    scores.requires_grad_()
    real = torch.tensor([True, True, False, False])
    penalty = router.regularize(router(scores, torch.zeros(4, dtype=torch.int64)), real)
    [gradient] = torch.autograd.grad(penalty, scores)
    assert gradient[0, 0] == pytest.approx(1.0 * EXPERTS / 2 / 2)  # by load 1, over 2 tokens
    assert gradient[0, 1] == pytest.approx(0.5 * EXPERTS / 2 / 2)  # by load one half
    assert not gradient[2:].any()
    assert not gradient[:2, 2:].any()


def test_top_p_takes_the_fewest_experts_that_reach_p() -> None:
    scores, ids = random_input(200, 7)
    router = build_router(TopPConfig(2), EXPERTS)
    for p in (0.05, 0.5, 0.9):
        router.get_buffer("threshold").fill_(p)
        weights = dense(router(scores, ids))
        probabilities = scores.softmax(-1)
        torch.testing.assert_close(weights, probabilities * (weights > 0))
        assert bool((weights.sum(-1) > p - 1e-5).all())
        least = weights.where(weights > 0, torch.inf).min(-1).values
        assert bool((weights.sum(-1) - least < p + 1e-5).all())  # without the last one it would not be reached


def test_top_p_needs_one_expert_of_a_sure_router_and_never_none() -> None:
    router = build_router(TopPConfig(2), EXPERTS)
    router.get_buffer("threshold").fill_(0.9)
    routing = router(100 * torch.eye(EXPERTS), torch.zeros(EXPERTS, dtype=torch.int64))
    assert routing.experts_TK.tolist() == [[expert] for expert in range(EXPERTS)]
    router.get_buffer("threshold").fill_(0.01)
    assert mean_k(router(*random_input(20, 8))) == 1


def test_top_p_is_led_to_the_wanted_mean_number_of_experts() -> None:
    router = build_router(TopPConfig(3), EXPERTS)
    for step in range(200):
        routing = router(*random_input(400, step))
        used = routing.experts_TK[routing.weights_TK > 0]
        router.after_step(torch.bincount(used, minlength=EXPERTS), 400)
    assert 2.9 < mean_k(router(*random_input(2000, 201))) < 3.1


def test_an_undecided_router_costs_more() -> None:
    router, real, ids = build_router(TopPConfig(2), EXPERTS), torch.ones(8, dtype=torch.bool), torch.zeros(8).long()
    undecided, decided = (router(scores, ids) for scores in (torch.zeros(8, EXPERTS), 200 * torch.eye(EXPERTS)))
    costs = [float(router.regularize(routing, real)) for routing in (undecided, decided)]
    assert costs == pytest.approx([1e-4 * math.log(EXPERTS), 0])


def test_most_routers_add_nothing_to_the_loss() -> None:
    router, (scores, ids) = build_router(SoftmaxTopKConfig(2), EXPERTS), random_input(5, 9)
    assert router.regularize(router(scores, ids), torch.ones(5, dtype=torch.bool)) == 0


@pytest.mark.parametrize("config", [ReluConfig(2, penalty=0.5), TopPConfig(2)], ids=repr)
def test_a_step_without_tokens_changes_nothing(config: RouterConfig) -> None:
    router = build_router(config, EXPERTS)
    [before] = [float(buffer) for buffer in router.buffers()]
    router.after_step(torch.zeros(EXPERTS), 0)
    assert [float(buffer) for buffer in router.buffers()] == [before]


def test_hash_spreads_the_vocabulary() -> None:
    ids = torch.arange(8000)
    experts = build_router(HashConfig(2), EXPERTS)(torch.zeros(8000, EXPERTS), ids).experts_TK
    counts = torch.bincount(experts.flatten(), minlength=EXPERTS)
    assert counts.max() < 1.2 * counts.min()


@pytest.mark.parametrize("k", [0, 9])
def test_an_impossible_k_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=r"1\.\.8 experts"):
        build_router(SoftmaxTopKConfig(k), EXPERTS)


def test_sparse_mixer_weighs_an_expert_against_those_near_to_it() -> None:
    router, ids = build_router(SparseMixerConfig(jitter=0.05), 4), torch.zeros(1, dtype=torch.int64)
    routing = router(torch.tensor([[2.0, 1.9, 1.0, 0.95]]), ids)
    assert routing.experts_TK.tolist() == [[0, 1]]
    near = torch.tensor([2.0, 1.9]).softmax(-1)[0]  # 1.9 is within a tenth of 2.0; nothing is near to 1.9 but 2.0
    torch.testing.assert_close(routing.weights_TK, torch.tensor([[float(near), 1.0]]))


def test_sparse_mixer_chooses_two_at_most() -> None:
    with pytest.raises(ValueError, match="at most 2 experts per token, not 3"):
        SparseMixerConfig(3)
    router, inputs = build_router(SparseMixerConfig(), EXPERTS), random_input(3, 0)
    router(*inputs, k=2)  # negative control
    with pytest.raises(ValueError, match="at most 2"):
        router(*inputs, k=3)
