"""What configs of the families with convolutions and state spaces say beyond the common keys."""

import json
from dataclasses import replace
from math import inf
from typing import Any

import pytest

from model.checkpoints.safetensors_files import CheckpointError
from model.config import (
    AttentionConfig,
    GatedMLPConfig,
    HashConfig,
    Mamba2Config,
    ModelConfig,
    MoEConfig,
    SoftmaxTopKConfig,
    hybrid_config,
)
from model.families import family_of, qwen3_next
from tests.model.families.checkpoints import TINY


def config_of(case: str, **changes: Any) -> ModelConfig:
    hf = json.loads((TINY / f"{case}.json").read_text()) | changes
    return family_of(hf).config_from_hf(hf)


def sources(case: str) -> set[str]:
    hf = json.loads((TINY / f"{case}.json").read_text())
    family = family_of(hf)
    return {name for rule in family.rules(family.config_from_hf(hf)) for name in rule.sources}


@pytest.mark.parametrize("case", ["granitemoehybrid", "lfm2", "lfm2_moe", "qwen3_next", "qwen3_5_moe_text"])
def test_a_layer_of_an_unknown_type_is_refused(case: str) -> None:
    layers = len(config_of(case).layers)
    with pytest.raises(CheckpointError, match=r"layer_types names 'sliding_attention': .* only .*full_attention"):
        config_of(case, layer_types=["sliding_attention"] * layers)


def test_both_names_of_a_granite_layer_mean_the_same() -> None:
    older = config_of("granitemoehybrid", layer_types=None, layers_block_type=["mamba", "attention", "mamba"])
    newer = config_of("granitemoehybrid", layer_types=["linear_attention", "full_attention", "linear_attention"])
    assert older == newer
    assert [type(layer.mixer) for layer in newer.layers] == [Mamba2Config, AttentionConfig, Mamba2Config]


@pytest.mark.parametrize("infinity", [inf, {"__float__": "Infinity"}])
def test_an_infinite_time_step_can_be_written_in_two_ways(infinity: Any) -> None:
    mixer = config_of("granitemoehybrid", time_step_limit=[0.0, infinity]).layers[0].mixer
    assert isinstance(mixer, Mamba2Config)
    assert mixer.time_step_limit == (0.0, inf)


@pytest.mark.parametrize(("case", "stored"), [("lfm2_moe", True), ("lfm2_moe_plain_router", False)])
def test_a_selection_bias_is_asked_for_where_there_is_one(case: str, stored: bool) -> None:
    assert any(name.endswith(".expert_bias") for name in sources(case)) == stored


@pytest.mark.parametrize(
    ("changes", "width"),
    [  # two thirds, times the factor, up to a multiple
        ({"block_ff_dim": 12288, "block_multiple_of": 256}, 8192),
        ({"block_ff_dim": 1000, "block_multiple_of": 64}, 704),
        ({"block_ff_dim": 1000, "block_multiple_of": 64, "block_ffn_dim_multiplier": 1.5}, 1024),
        ({"block_ff_dim": 1000, "block_ffn_dim_multiplier": None}, 666),
        ({"block_ff_dim": 1000, "block_auto_adjust_ff_dim": False}, 1000),
    ],
)
def test_the_width_of_a_feed_forward_is_found(changes: dict[str, Any], width: int) -> None:
    assert config_of("lfm2", **changes).layers[0].feed_forward == GatedMLPConfig(width)


@pytest.mark.parametrize(
    ("feed_forward", "message"),
    [
        (GatedMLPConfig(16), "experts in every layer"),
        (MoEConfig(SoftmaxTopKConfig(1), 4, 16), "a shared expert"),
        (replace(hybrid_config().layers[0].feed_forward, router=HashConfig(1)), "softmax top-k routers"),
    ],
    ids=["dense", "no shared expert", "another router"],
)
def test_what_qwen3_next_cannot_describe_is_not_written(feed_forward: GatedMLPConfig | MoEConfig, message: str) -> None:
    config = hybrid_config()
    assert qwen3_next.config_from_hf(qwen3_next.config_to_hf(config)) == config  # negative control
    layers = tuple(replace(layer, feed_forward=feed_forward) for layer in config.layers)
    with pytest.raises(ValueError, match=message):
        qwen3_next.config_to_hf(replace(config, layers=layers))
