"""What a whole network can be told."""

import pytest
import torch

from model.batch import PaddedBatch
from model.config import GatedMLPConfig, LayerConfig, ModelConfig, hybrid_config
from model.network import CausalLM

TINY = hybrid_config(
    hidden_size=32, num_layers=2, attention_every=2, num_heads=2, num_kv_heads=1, head_dim=16, num_experts=4,
    expert_width=16, shared_width=16, vocab_size=64,
)  # fmt: skip


@torch.no_grad()
def test_the_number_of_experts_can_be_chosen() -> None:
    network = CausalLM(TINY)
    for k in (1, 3):
        network.route_to(k)
        _, routings = network(PaddedBatch(torch.arange(8)[None]))
        assert [routing.experts_TK.shape[1] for routing in routings if routing is not None] == [k, k]


@pytest.mark.parametrize("k", [0, 5])
def test_more_experts_than_there_are_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="1 to 4"):
        CausalLM(TINY).route_to(k)


def test_a_dense_network_has_no_experts_to_choose() -> None:
    dense = tuple(LayerConfig(layer.mixer, GatedMLPConfig(16)) for layer in TINY.layers)
    with pytest.raises(ValueError, match="a model with experts"):
        CausalLM(ModelConfig(64, 32, dense, 128)).route_to(1)
