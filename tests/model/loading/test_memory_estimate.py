"""What a network takes, counted from shapes, is what it takes when it is there."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from model.config import GatedMLPConfig, HashConfig, ModelConfig, RouterConfig, SoftmaxTopKConfig, hybrid_config
from model.loading.memory_estimate import network_size, weight_bytes
from model.network import CausalLM, cast_matrices
from model.quantization import Scheme, plain, plain_scheme

SHAPE: dict[str, Any] = {
    "hidden_size": 32, "num_layers": 4, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "num_experts": 8,
    "expert_width": 16, "shared_width": 16, "vocab_size": 64,
}  # fmt: skip
EXPERT = 3 * 32 * 16  # gate, up and down


def without_data(config: ModelConfig) -> CausalLM:
    with torch.device("meta"):
        return cast_matrices(CausalLM(config), torch.bfloat16)


FOUR_BITS = Scheme("four", 4.5, plain.keep, head_scheme=Scheme("eight", 8.0, plain.keep))


def test_parameters_are_those_of_the_network() -> None:
    config = hybrid_config(**SHAPE)
    expected = sum(parameter.numel() for parameter in CausalLM(config).parameters())
    assert network_size(without_data(config)).parameters == expected


@pytest.mark.parametrize(("router", "idle"), [(SoftmaxTopKConfig(2), 6), (SoftmaxTopKConfig(8), 0), (HashConfig(1), 7)])
def test_experts_that_are_not_chosen_are_idle(router: RouterConfig, idle: int) -> None:
    size = network_size(without_data(hybrid_config(**SHAPE, router=router)))
    assert size.parameters - size.active_parameters == 4 * idle * EXPERT


def test_without_experts_everything_is_active() -> None:
    config = hybrid_config(**SHAPE)
    dense = replace(config, layers=tuple(replace(layer, feed_forward=GatedMLPConfig(16)) for layer in config.layers))
    size = network_size(without_data(dense))
    assert size.active_parameters == size.parameters


def test_a_tied_head_counts_once() -> None:
    config = hybrid_config(**SHAPE)
    free, tied = (without_data(replace(config, tie_word_embeddings=tied)) for tied in (False, True))
    assert network_size(free).parameters - network_size(tied).parameters == 64 * 32


def test_the_embedding_is_told_apart() -> None:
    """A parameter that is looked up, not multiplied: what people call the size of a model often leaves it out."""
    size = network_size(without_data(hybrid_config(**SHAPE)))
    assert size.embedding_parameters == 64 * 32


def test_plain_bytes_are_those_of_the_parameters() -> None:
    network = cast_matrices(CausalLM(hybrid_config(**SHAPE)), torch.bfloat16)
    expected = sum(parameter.nbytes for parameter in network.parameters())
    assert weight_bytes(network, plain_scheme(torch.bfloat16)) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_bits_of_plain_weights_are_those_of_packed_ones(dtype: torch.dtype) -> None:
    scheme, weight = plain_scheme(dtype), torch.randn(64, 32).to(dtype)
    assert scheme.linear(weight).weights.nbytes * 8 == weight.numel() * scheme.bits_per_weight


@pytest.mark.parametrize(("scheme", "shared"), [(plain_scheme(torch.bfloat16), True), (FOUR_BITS, False)])
def test_a_tied_head_and_the_embedding_share_numbers_but_not_codes(scheme: Scheme, shared: bool) -> None:
    tied, apart = (without_data(replace(hybrid_config(**SHAPE), tie_word_embeddings=tied)) for tied in (True, False))
    saved = weight_bytes(apart, scheme) - weight_bytes(tied, scheme)
    assert saved == (apart.embedding.weight.nbytes if shared else 0)


def test_a_scheme_shrinks_matrices_alone() -> None:
    network = without_data(replace(hybrid_config(**SHAPE), tie_word_embeddings=False))
    plain, small = (weight_bytes(network, scheme) for scheme in (plain_scheme(torch.bfloat16), FOUR_BITS))
    head = 64 * 32
    gates = [parameter.numel() for name, parameter in network.named_parameters() if name.endswith(".gate.weight")]
    kept = ("embedding", "head", "norm", "conv_weight", "A_log", "dt_bias", ".gate.weight")
    matrices = sum(p.numel() for name, p in network.named_parameters() if not any(part in name for part in kept))
    assert len(gates) == 4
    assert plain - small == head * (16 - 8) // 8 + matrices * (16 - 4.5) / 8


def test_what_a_sequence_takes() -> None:
    size = network_size(without_data(hybrid_config(**SHAPE)))
    assert size.kv_bytes_per_token == 2 * 16 * 2  # a key and a value of one head in one layer, two bytes each
    conv, delta = 3 * (2 * 2 * 16 + 2 * 16), 2 * 16 * 16
    assert size.state_bytes_per_sequence == 3 * 4 * (conv + delta)
    assert size.sequence_bytes(10) == 10 * size.kv_bytes_per_token + size.state_bytes_per_sequence
