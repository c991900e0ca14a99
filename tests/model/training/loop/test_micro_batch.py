"""A micro-batch: what its routers cost by definition, and that this is learnt from."""

import copy
from dataclasses import replace

import pytest
import torch

from model.batch import PaddedBatch
from model.config import HashConfig, RouterConfig, SoftmaxTopKConfig, hybrid_config
from model.network import CausalLM
from model.training.data.collate import LossWeights, TrainingBatch
from model.training.data.mixture import Mixture, MixturePart
from model.training.loop.micro_batch import MicroReport, MicroStep
from model.training.loop.replica import Replica
from model.training.recipe import Phase, Recipe

EXPERTS, BALANCE, Z = 4, 0.5, 0.25
LENGTHS = [5, 8]


def recipe(router: RouterConfig) -> Recipe:
    model = hybrid_config(
        hidden_size=16, num_layers=4, num_heads=2, num_kv_heads=1, head_dim=8, num_experts=EXPERTS,
        router=router, expert_width=16, shared_width=16, vocab_size=32,
    )  # fmt: skip
    phase = Phase(Mixture((MixturePart("text", 1.0, ("generate/*",)),)), LossWeights())
    return Recipe(model=model, tokens=100, stable=phase, decay=phase, balance_weight=BALANCE, z_weight=Z)


def batch() -> TrainingBatch:
    """Two rows, of which the first ends in padding. Nothing is predicted: only what routers cost remains."""
    generator = torch.Generator().manual_seed(1)
    lengths_B = torch.tensor(LENGTHS)
    real_BL = torch.arange(8) < lengths_B[:, None]
    ids_BL = torch.randint(1, 32, (2, 8), generator=generator) * real_BL
    nothing_BL = torch.zeros(2, 8)
    return TrainingBatch(ids_BL, ids_BL.roll(-1, 1), nothing_BL, nothing_BL, real_BL, ("generate/a", "generate/a"))


def network_of(router: RouterConfig) -> CausalLM:
    torch.manual_seed(1)
    network = CausalLM(recipe(router).model)
    for name, parameter in network.named_parameters():
        if name.endswith("feed_forward.gate.weight"):
            torch.nn.init.normal_(parameter, std=1.0)  # a router that has its preferences
    return network.train()


def run(network: CausalLM, router: RouterConfig, last_load: list[torch.Tensor]) -> tuple[MicroReport, Replica]:
    replica = Replica(network)
    return MicroStep(recipe(router), "cpu").run(replica, batch(), "0/0", last_load), replica


def expected_costs(network: CausalLM, last_load: list[torch.Tensor], balance_weight: float) -> torch.Tensor:
    """By definition, with the real tokens of the batch one after another."""
    real = [t for row, length in enumerate(LENGTHS) for t in range(8 * row, 8 * row + length)]
    _, routings = network(PaddedBatch(batch().token_ids_BL))
    total = torch.zeros(())
    for routing, last_E in zip([routing for routing in routings if routing is not None], last_load, strict=True):
        load_E, scores = last_E.clone(), routing.router_logits_TE[real]
        for expert in routing.experts_TK[real].flatten().tolist():
            load_E[expert] += 1
        probabilities_E = scores.softmax(-1).mean(0)
        balance = EXPERTS * (load_E / load_E.sum() * probabilities_E).sum()
        total = total + balance_weight * balance + Z * (scores.logsumexp(-1) ** 2).mean()
    return total


def uneven_load() -> list[torch.Tensor]:
    """Of the last step, another expert the busiest in each layer."""
    return [100 * torch.eye(EXPERTS, dtype=torch.int64)[layer] for layer in range(4)]


def test_routers_cost_their_balance_over_this_and_the_last_step_and_their_z_loss() -> None:
    network = network_of(SoftmaxTopKConfig(2))
    expected = expected_costs(network, uneven_load(), BALANCE)
    report, _ = run(network, SoftmaxTopKConfig(2), uneven_load())
    assert report.balance == pytest.approx(float(expected.detach()), rel=1e-5)
    assert report.tokens == sum(LENGTHS)
    assert [int(load_E.sum()) for load_E in report.load] == [2 * sum(LENGTHS)] * 4


def test_a_router_that_balances_itself_costs_its_z_loss_only() -> None:
    nothing = [torch.zeros(EXPERTS, dtype=torch.int64) for _ in range(4)]
    network = network_of(HashConfig(2))
    expected = expected_costs(network, nothing, balance_weight=0.0)
    assert run(network, HashConfig(2), nothing)[0].balance == pytest.approx(float(expected.detach()), rel=1e-5)


def test_what_routers_cost_is_learnt_from() -> None:
    network = network_of(SoftmaxTopKConfig(2))
    twin = copy.deepcopy(network)
    expected_costs(twin, uneven_load(), BALANCE).backward()
    _, replica = run(network, SoftmaxTopKConfig(2), uneven_load())
    for name, parameter in twin.named_parameters():
        if name.endswith("feed_forward.gate.weight"):
            assert parameter.grad is not None
            assert parameter.grad.any()
            torch.testing.assert_close(replica.gradients[name], parameter.grad)


def test_the_number_of_experts_of_a_layer_is_drawn_from_the_recipe() -> None:
    network = network_of(SoftmaxTopKConfig(2))
    one = replace(recipe(SoftmaxTopKConfig(2)), random_k={1: 1.0})
    report = MicroStep(one, "cpu").run(Replica(network), batch(), "0/0", uneven_load())
    assert [int(load_E.sum()) for load_E in report.load] == [sum(LENGTHS)] * 4
