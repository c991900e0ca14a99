"""Routing algorithms: each decides from the token alone; what peeks at other tokens is caught."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.config import (
    ExpertThresholdConfig,
    HashConfig,
    RouterConfig,
    SigmoidBiasConfig,
    SoftmaxTopKConfig,
)
from model.layers.router import ROUTERS, Router, Routing, build_router, top_k

CONFIGS: list[RouterConfig] = [
    SoftmaxTopKConfig(2),
    SoftmaxTopKConfig(1, renormalize=False),
    SigmoidBiasConfig(3, scale=2.5),
    HashConfig(2),
    ExpertThresholdConfig(2),
]
EXPERTS = 8


class ExpertChoice(Router):
    """Each expert takes its best tokens of the batch: not causal, so never served. The negative control."""

    def forward(self, scores_TE: Tensor, token_ids_T: Tensor) -> Routing:
        affinity_TE = scores_TE.softmax(-1)
        capacity = max(self.k * len(scores_TE) // self.num_experts, 1)
        kept_E = affinity_TE.sort(dim=0, descending=True).values[capacity - 1]
        taken_TE = affinity_TE * (affinity_TE >= kept_E)
        experts_TK = top_k(taken_TE, self.num_experts)
        return Routing(taken_TE.gather(1, experts_TK), experts_TK, scores_TE)


def dense(routing: Routing) -> Tensor:
    """Weight of every expert for every token [T, E]."""
    weights_TE = torch.zeros_like(routing.scores_TE)
    return weights_TE.scatter_add(1, routing.experts_TK, routing.weights_TK)


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
@settings(max_examples=15, deadline=None)
def test_a_token_is_routed_the_same_in_any_company(config: RouterConfig, tokens: int, seed: int) -> None:
    assert is_tokenwise(build_router(config, EXPERTS).eval(), *random_input(tokens, seed))


def test_expert_choice_is_caught() -> None:
    assert not is_tokenwise(ExpertChoice(EXPERTS, 2), *random_input(20, 0))


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_training_and_serving_route_alike(config: RouterConfig) -> None:
    router, (scores, ids) = build_router(config, EXPERTS), random_input(30, 1)
    with torch.no_grad():
        served = dense(router.eval()(scores, ids))
    assert torch.equal(dense(router.train()(scores, ids)), served)


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
        router.after_step(load)
    after = router(scores, ids)
    assert 5 not in after.experts_TK
    affinity = scores.sigmoid().gather(1, after.experts_TK)
    torch.testing.assert_close(after.weights_TK, affinity / affinity.sum(-1, keepdim=True))
    assert not torch.equal(before.experts_TK, after.experts_TK)


def test_thresholds_drift_to_the_wanted_mean_number_of_experts() -> None:
    router = build_router(ExpertThresholdConfig(2, ema=0.9), EXPERTS).train()
    for step in range(100):
        router(*random_input(400, step))
        router.after_step(torch.zeros(EXPERTS))
    chosen = (router(*random_input(2000, 101)).weights_TK > 0).sum() / 2000
    assert 1.8 < float(chosen) < 2.2


def test_hash_spreads_the_vocabulary() -> None:
    ids = torch.arange(8000)
    experts = build_router(HashConfig(2), EXPERTS)(torch.zeros(8000, EXPERTS), ids).experts_TK
    counts = torch.bincount(experts.flatten(), minlength=EXPERTS)
    assert counts.max() < 1.2 * counts.min()


@pytest.mark.parametrize("k", [0, 9])
def test_an_impossible_k_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=r"1\.\.8 experts"):
        build_router(SoftmaxTopKConfig(k), EXPERTS)
