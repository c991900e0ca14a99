"""The optimizer next to plain definitions: clipping, Muon with weight decay, Adam with its corrections, the rates."""

import math
from dataclasses import replace

import pytest
import torch

from model.config import SoftmaxTopKConfig, hybrid_config
from model.network import CausalLM
from model.training.optimizer import Optimizer, OptimizerConfig, WeightDecay

ROUTER, EMBEDDING, NORM = "blocks.0.feed_forward.gate.weight", "embedding.weight", "norm.weight"
TALL = "blocks.0.feed_forward.shared.gate_up.weight"  # more rows than columns
CONFIG = OptimizerConfig(clip=math.inf)


@pytest.fixture
def network() -> CausalLM:
    torch.manual_seed(1)
    config = hybrid_config(
        hidden_size=16, num_layers=4, num_heads=2, num_kv_heads=1, head_dim=8, num_experts=4,
        router=SoftmaxTopKConfig(2), expert_width=16, shared_width=16, vocab_size=32,
    )  # fmt: skip
    network = CausalLM(config)
    network.tie_head()
    return network


def random_gradients(optimizer: Optimizer, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(master.shape, generator=generator) for name, master in optimizer.masters.items()}


def no_gradients(optimizer: Optimizer) -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(master) for name, master in optimizer.masters.items()}


def copied(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def test_gradients_are_clipped_to_the_norm_over_all_parameters(network: CausalLM) -> None:
    optimizer = Optimizer(network, replace(CONFIG, clip=0.5, momentum=0.9, betas=(0.9, 0.9)))
    gradients = random_gradients(optimizer, 1)
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients.values()))
    assert optimizer.step(gradients, 1.0) == pytest.approx(norm)
    assert norm > 1
    for name, first in optimizer.first.items():
        torch.testing.assert_close(first, 0.1 * gradients[name] * 0.5 / norm)


def test_small_gradients_are_not_enlarged(network: CausalLM) -> None:
    optimizer = Optimizer(network, replace(CONFIG, clip=1e6, momentum=0.9, betas=(0.9, 0.9)))
    gradients = random_gradients(optimizer, 1)
    optimizer.step(gradients, 1.0)
    torch.testing.assert_close(optimizer.first[TALL], 0.1 * gradients[TALL])


def test_the_weights_of_matrices_decay_and_no_others(network: CausalLM) -> None:
    optimizer = Optimizer(network, replace(CONFIG, muon_lr=0.5, weight_decay=WeightDecay(0.4)))
    before = copied(optimizer.masters)
    optimizer.step(no_gradients(optimizer), 0.25)
    torch.testing.assert_close(optimizer.masters[TALL], before[TALL] * (1 - 0.5 * 0.25 * 0.4))
    for name in (ROUTER, EMBEDDING, NORM):
        assert torch.equal(optimizer.masters[name], before[name])


def test_scheduled_weight_decay_follows_the_learning_rate() -> None:
    for scheduled, expected in ((False, 1 - 0.5 * 0.4), (True, 1 - 0.5 * 0.4 * 0.25)):
        master = torch.ones(2, 2)
        WeightDecay(0.4, scheduled=scheduled).apply(master, torch.ones(2, 2), rate=0.5, scale=0.25)
        torch.testing.assert_close(master, torch.full((2, 2), expected))


def test_cautious_weight_decay_leaves_weights_that_grow() -> None:
    master, update = torch.tensor([2.0, 2.0, -2.0, -2.0]), torch.tensor([1.0, -1.0, -1.0, 1.0])
    WeightDecay(0.4, cautious=True).apply(master, update, rate=0.5, scale=1.0)
    torch.testing.assert_close(master, torch.tensor([1.6, 2.0, -1.6, -2.0]))  # a step subtracts the update


def test_all_else_moves_as_adam_does(network: CausalLM) -> None:
    optimizer = Optimizer(network, replace(CONFIG, scalar_lr=0.01, betas=(0.9, 0.95)))
    expected = optimizer.masters[NORM].clone()
    first, second = torch.zeros_like(expected), torch.zeros_like(expected)
    for step in (1, 2, 3):
        gradients = random_gradients(optimizer, step)
        first = 0.9 * first + 0.1 * gradients[NORM]
        second = 0.95 * second + 0.05 * gradients[NORM] ** 2
        expected = expected - 0.01 * (first / (1 - 0.9**step)) / (second / (1 - 0.95**step)).sqrt()
        optimizer.step(gradients, 1.0)
        torch.testing.assert_close(optimizer.masters[NORM], expected)


@pytest.mark.parametrize(
    ("name", "rate"),
    [(ROUTER, CONFIG.router_lr), (EMBEDDING, CONFIG.embedding_lr), (NORM, CONFIG.scalar_lr)],
    ids=["router", "embedding", "norm"],
)
def test_the_first_step_of_adam_is_as_long_as_the_rate_of_its_kind(network: CausalLM, name: str, rate: float) -> None:
    optimizer = Optimizer(network, CONFIG)
    before, gradients = copied(optimizer.masters), random_gradients(optimizer, 3)
    optimizer.step(gradients, 0.5)
    torch.testing.assert_close(optimizer.masters[name], before[name] - 0.5 * rate * gradients[name].sign())


def test_the_network_holds_the_masters_after_a_step(network: CausalLM) -> None:
    optimizer = Optimizer(network, CONFIG)
    optimizer.step(random_gradients(optimizer, 4), 1.0)
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, optimizer.masters[name])


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_gradients_that_are_not_finite_change_nothing(network: CausalLM, value: float) -> None:
    optimizer = Optimizer(network, CONFIG)
    optimizer.step(random_gradients(optimizer, 1), 1.0)
    before = copied(optimizer.state_tensors())
    gradients = random_gradients(optimizer, 2)
    gradients[NORM][0] = value
    assert not optimizer.step(gradients, 1.0).isfinite()
    assert optimizer.steps == 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in optimizer.state_tensors().items())
