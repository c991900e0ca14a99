"""Granite 4 (`model_type` granitemoehybrid): Mamba-2 layers and a few attention layers, MoE with a shared expert.

The attention may have no position embedding. Without experts, every layer only has the shared feed-forward.
"""

from dataclasses import replace
from typing import Any

from model.checkpoints.rules import Rule
from model.config import (
    GatedMLPConfig,
    LayerConfig,
    Mamba2Config,
    MixerConfig,
    ModelConfig,
    MoEConfig,
    SharedExpertConfig,
    TopKSoftmaxConfig,
)
from model.families import granite, standard
from model.families.standard import HfConfig


def config_from_hf(hf: HfConfig) -> ModelConfig:
    standard.require(hf, hidden_act="silu")
    attention, feed_forward = granite.attention(hf), _feed_forward(hf)
    if hf.get("position_embedding_type") != "rope":
        attention = replace(attention, rotary=None)
    mamba = _mamba(hf)
    mixers: dict[str, MixerConfig] = {
        "mamba": mamba, "linear_attention": mamba, "attention": attention, "full_attention": attention,
    }  # fmt: skip
    kinds = hf.get("layer_types") or hf.get("layers_block_type") or ["mamba"] * hf["num_hidden_layers"]
    return granite.decoder(hf, [LayerConfig(mixer, feed_forward) for mixer in standard.of_kinds(kinds, mixers)])


def _mamba(hf: HfConfig) -> Mamba2Config:
    heads, head_dim = hf.get("mamba_n_heads", 128), hf.get("mamba_d_head", "auto")
    low, high = hf.get("time_step_limit") or (0.0, float("inf"))
    return Mamba2Config(
        heads,
        hf.get("mamba_expand", 2) * hf["hidden_size"] // heads if head_dim == "auto" else head_dim,
        hf.get("mamba_n_groups", 1),
        hf.get("mamba_d_state", 256),
        hf.get("mamba_d_conv", 4),
        hf.get("mamba_conv_bias", True),
        hf.get("mamba_proj_bias", False),
        (number(low), number(high)),
        hf.get("rms_norm_eps", 1e-6),
    )


def number(value: Any) -> float:
    """A number of config.json. transformers writes infinity, which JSON lacks, as {"__float__": "Infinity"}."""
    return float(value["__float__"] if isinstance(value, dict) else value)


def _feed_forward(hf: HfConfig) -> GatedMLPConfig | MoEConfig:
    experts, shared_width = hf.get("num_local_experts", 8), hf.get("shared_intermediate_size", 1024)
    if not experts:
        return GatedMLPConfig(shared_width)
    router = TopKSoftmaxConfig(hf.get("num_experts_per_tok", 2))
    return MoEConfig(router, experts, hf["intermediate_size"], SharedExpertConfig(shared_width))


def rules(config: ModelConfig) -> list[Rule]:
    return standard.decoder_rules(
        config, {Mamba2Config: _mamba_rules, MoEConfig: _moe_rules, GatedMLPConfig: _mlp_rules}
    )


def _moe_rules(ours: str, theirs: str, config: MoEConfig, hidden_size: int) -> list[Rule]:
    experts = f"{theirs}.block_sparse_moe"
    return [
        Rule(f"{ours}.gate.weight", (f"{experts}.router.layer.weight",)),
        *_fused(f"{ours}.experts", experts),
        *_fused(f"{ours}.shared", f"{theirs}.shared_mlp"),
    ]


def _mlp_rules(ours: str, theirs: str, config: GatedMLPConfig, hidden_size: int) -> list[Rule]:
    return _fused(ours, f"{theirs}.shared_mlp")


def _fused(ours: str, theirs: str) -> list[Rule]:
    """A gated MLP, or all experts, stored as in our network."""
    return [
        Rule(f"{ours}.gate_up.weight", (f"{theirs}.input_linear.weight",)),
        Rule(f"{ours}.down.weight", (f"{theirs}.output_linear.weight",)),
    ]


def _mamba_rules(ours: str, theirs: str, config: Mamba2Config, hidden_size: int) -> list[Rule]:
    return mamba_rules(ours, f"{theirs}.mamba", config)


def mamba_rules(ours: str, theirs: str, config: Mamba2Config) -> list[Rule]:
    """A Mamba-2 mixer with the names of transformers."""
    names = ["in_proj.weight", "out_proj.weight", "A_log", "D", "dt_bias", "norm.weight"]
    if config.projection_bias:
        names += ["in_proj.bias", "out_proj.bias"]
    return [
        *(Rule(f"{ours}.{name}", (f"{theirs}.{name}",)) for name in names),
        *standard.conv_rules(ours, f"{theirs}.conv1d", config.conv_channels, config.conv_width, bias=config.conv_bias),
    ]
