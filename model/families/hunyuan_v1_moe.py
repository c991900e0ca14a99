"""Hunyuan-A13B (`model_type` hunyuan_v1_moe): queries and keys are normalized after the rotary positions.

`moe_topk` may differ from layer to layer.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from model.checkpoints.safetensors_files import Rule
from model.config import (
    AttentionConfig,
    LayerConfig,
    ModelConfig,
    MoEConfig,
    QKNormConfig,
    SharedExpertConfig,
    SoftmaxTopKConfig,
)
from model.families import standard
from model.families.standard import HfConfig


def config_from_hf(hf: HfConfig) -> ModelConfig:
    standard.require(hf, hidden_act="silu", mlp_bias=False)
    hf = {"rms_norm_eps": 1e-5, **hf}
    hf = {**hf, "rope_theta": _theta(hf), "rope_parameters": _without_theta(hf.get("rope_parameters"))}
    attention = replace(standard.attention(hf), qk_norm=QKNormConfig(standard.norm(hf), after_rotary=True))
    layers = range(hf["num_hidden_layers"])
    return standard.decoder(hf, [LayerConfig(attention, _moe(hf, index)) for index in layers])


def _theta(hf: HfConfig) -> float:
    """The base of the rotary positions. `alpha` stretches it (NTK-aware scaling)."""
    rope = hf.get("rope_scaling") or hf.get("rope_parameters") or {}
    rotary = standard.rotary(hf, hf.get("head_dim") or hf["hidden_size"] // hf["num_attention_heads"])
    alpha = rope.get("alpha")
    return rotary.theta * alpha ** (rotary.dim / (rotary.dim - 2)) if alpha else rotary.theta


def _without_theta(rope: dict[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (rope or {}).items() if key != "rope_theta"}


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
