"""Jamba (`model_type` jamba): Mamba layers and some attention layers without position embedding, MoE in every other."""

import math
from dataclasses import replace
from typing import Any

from model.checkpoints.rules import Rule
from model.config import GatedMLPConfig, LayerConfig, MambaConfig, ModelConfig, MoEConfig, SoftmaxTopKConfig
from model.families import standard
from model.families.standard import HfConfig, PartRules

_DEFAULTS: dict[str, Any] = {
    "num_key_value_heads": 8,
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "attn_layer_period": 8,
    "attn_layer_offset": 4,
}
_NORMS = {"mixer_norm": "input_layernorm", "feed_forward_norm": "pre_ff_layernorm"}


def config_from_hf(hf: HfConfig) -> ModelConfig:
    standard.require(hf, hidden_act="silu")
    hf = _DEFAULTS | dict(hf)
    attention, mamba = replace(standard.attention(hf), rotary=None, input_bias=False, output_bias=False), _mamba(hf)
    dense, moe = GatedMLPConfig(hf["intermediate_size"]), _moe(hf)
    layers = [
        LayerConfig(
            attention if index % hf["attn_layer_period"] == hf["attn_layer_offset"] else mamba,
            moe if moe and index % hf["expert_layer_period"] == hf["expert_layer_offset"] else dense,
        )
        for index in range(hf["num_hidden_layers"])
    ]
    return standard.decoder(hf, layers)


def _mamba(hf: HfConfig) -> MambaConfig:
    rank = hf.get("mamba_dt_rank", "auto")
    return MambaConfig(
        hf.get("mamba_expand", 2) * hf["hidden_size"],
        hf.get("mamba_d_state", 16),
        math.ceil(hf["hidden_size"] / 16) if rank == "auto" else rank,
        hf.get("mamba_d_conv", 4),
        hf.get("mamba_conv_bias", True),
        hf.get("mamba_proj_bias", False),
        hf.get("rms_norm_eps", 1e-6),
    )


def _moe(hf: HfConfig) -> MoEConfig | None:
    """None for a model of dense layers only."""
    if hf["num_experts"] <= 1:
        return None
    router = SoftmaxTopKConfig(hf["num_experts_per_tok"], renormalize=False)
    return MoEConfig(router, hf["num_experts"], hf["intermediate_size"])


def rules(config: ModelConfig) -> list[Rule]:
    parts: dict[type, PartRules] = {MambaConfig: _mamba_rules, MoEConfig: _moe_rules, GatedMLPConfig: _mlp_rules}
    return standard.decoder_rules(config, parts, norms=_NORMS, final_norm="final_layernorm")


def _mlp_rules(ours: str, theirs: str, config: GatedMLPConfig, hidden_size: int) -> list[Rule]:
    return standard.gated_mlp_rules(ours, f"{theirs}.feed_forward", config.width)


def _moe_rules(ours: str, theirs: str, config: MoEConfig, hidden_size: int) -> list[Rule]:
    theirs, experts, width = f"{theirs}.feed_forward", config.num_experts, config.expert_width
    return [
        Rule(f"{ours}.gate.weight", (f"{theirs}.router.weight",)),
        *standard.expert_rules(
            f"{ours}.experts", f"{theirs}.experts", experts=experts, width=width, hidden_size=hidden_size
        ),
    ]


def _mamba_rules(ours: str, theirs: str, config: MambaConfig, hidden_size: int) -> list[Rule]:
    theirs += ".mamba"
    names = {name: name for name in ("in_proj.weight", "out_proj.weight", "x_proj.weight", "dt_proj.weight")}
    names |= {"A_log": "A_log", "D": "D", "dt_bias": "dt_proj.bias"}
    names |= {f"{part}_norm.weight": f"{part.lower()}_layernorm.weight" for part in ("dt", "B", "C")}
    if config.projection_bias:
        names |= {name: name for name in ("in_proj.bias", "out_proj.bias")}
    return [
        *(Rule(f"{ours}.{our}", (f"{theirs}.{name}",)) for our, name in names.items()),
        *standard.conv_rules(ours, f"{theirs}.conv1d", config.width, config.conv_width, bias=config.conv_bias),
    ]
