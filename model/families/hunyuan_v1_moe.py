"""Hunyuan-A13B (`model_type` hunyuan_v1_moe): queries and keys are normalized after the rotary positions.

`moe_topk` may differ from layer to layer.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from model.checkpoints.rules import Rule
from model.config import (
    AttentionConfig,
    LayerConfig,
    ModelConfig,
    MoEConfig,
    QKNormConfig,
    RotaryConfig,
    SharedExpertConfig,
    SoftmaxTopKConfig,
)
from model.families import rope, standard
from model.families.standard import HfConfig


def config_from_hf(hf: HfConfig) -> ModelConfig:
    standard.require(hf, hidden_act="silu", mlp_bias=False)
    hf = {"rms_norm_eps": 1e-5, **hf}
    attention, qk_norm = standard.attention(hf), QKNormConfig(standard.norm(hf), after_rotary=True)
    attention = replace(attention, rotary=_rotary(hf, attention.head_dim), qk_norm=qk_norm)
    layers = range(hf["num_hidden_layers"])
    return standard.decoder(hf, [LayerConfig(attention, _moe(hf, index)) for index in layers])


def _rotary(hf: HfConfig, head_dim: int) -> RotaryConfig:
    """`alpha` stretches the base of the rotary positions (NTK-aware scaling)."""
    rotary, alpha = rope.rotary(hf, head_dim), rope.parameters(hf).get("alpha")
    return replace(rotary, theta=rotary.theta * alpha ** (rotary.dim / (rotary.dim - 2))) if alpha else rotary


def _moe(hf: HfConfig, index: int) -> MoEConfig:
    def of_layer(value: Any) -> int:
        return int(value[index] if isinstance(value, list) else value)

    width, top_k = hf["intermediate_size"], of_layer(hf.get("moe_topk", 1))
    return MoEConfig(SoftmaxTopKConfig(top_k), of_layer(hf["num_experts"]), width, SharedExpertConfig(width))


def rules(config: ModelConfig) -> list[Rule]:
    attention = partial(standard.attention_rules, norms=("query_layernorm", "key_layernorm"))
    return standard.decoder_rules(config, {AttentionConfig: attention, MoEConfig: _moe_rules})


def _moe_rules(ours: str, theirs: str, config: MoEConfig, hidden_size: int) -> list[Rule]:
    theirs += ".mlp"
    experts, width = config.num_experts, config.expert_width
    return [
        Rule(f"{ours}.gate.weight", (f"{theirs}.gate.wg.weight",)),
        *standard.expert_rules(
            f"{ours}.experts", f"{theirs}.experts", experts=experts, width=width, hidden_size=hidden_size
        ),
        *standard.gated_mlp_rules(f"{ours}.shared", f"{theirs}.shared_mlp", width),
    ]
