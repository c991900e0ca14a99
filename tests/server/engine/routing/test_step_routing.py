"""The routing of all layers as one tensor of each kind."""

import math

import pytest
import torch

from model.layers.router import Routing
from server.engine.routing.expert_load import ExpertLoadRecorder, TokenGroup
from server.engine.routing.step_routing import StepRouting


def routing(choices: int, experts: int, seed: int) -> Routing:
    """Of three tokens."""
    logits_TE = torch.randn(3, experts, generator=torch.Generator().manual_seed(seed))
    weights_TK, experts_TK = logits_TE.softmax(-1).topk(choices)
    return Routing(weights_TK, experts_TK, logits_TE)


def test_alike_layers_are_copied() -> None:
    layers = [routing(2, 4, 0), None, routing(2, 4, 1)]
    stacked = StepRouting.stack(layers)
    assert stacked is not None
    assert (stacked.layers, stacked.num_tokens) == ((0, 2), 3)
    for place, layer in enumerate(layer for layer in layers if layer is not None):
        assert torch.equal(stacked.weights_LTK[place], layer.weights_TK)
        assert torch.equal(stacked.experts_LTK[place], layer.experts_TK)
        assert torch.equal(stacked.router_logits_LTE[place], layer.router_logits_TE)
        layer.weights_TK.zero_()
    assert stacked.weights_LTK.all(), "what the network writes later is not seen"


def test_narrow_layers_are_filled_up_with_what_is_not_computed() -> None:
    narrow, wide = routing(1, 3, 2), routing(2, 5, 3)
    stacked = StepRouting.stack([narrow, wide])
    assert stacked is not None
    assert stacked.weights_LTK[0].tolist() == [[weight, 0.0] for (weight,) in narrow.weights_TK.tolist()]
    assert stacked.router_logits_LTE[0].tolist() == [
        [*row, -math.inf, -math.inf] for row in narrow.router_logits_TE.tolist()
    ]
    assert torch.equal(stacked.weights_LTK[1], wide.weights_TK)


def test_what_fills_up_is_not_counted() -> None:
    narrow, wide = routing(1, 3, 2), routing(2, 5, 3)
    both, alone = ExpertLoadRecorder({0: 3, 1: 5}), ExpertLoadRecorder({0: 3})
    both.observe(StepRouting.stack([narrow, wide]), [TokenGroup("chat", "", 3)])
    alone.observe(StepRouting.stack([narrow]), [TokenGroup("chat", "", 3)])
    both.flush(), alone.flush()
    assert both.loads[0].tokens_per_expert == alone.loads[0].tokens_per_expert
    assert both.loads[0].entropy == pytest.approx(alone.loads[0].entropy)
    assert sum(both.loads[1].tokens_per_expert) == 6


def test_a_network_without_experts_has_none() -> None:
    assert StepRouting.stack([None, None]) is None
