"""Granite 4 (`model_type` granitemoehybrid): Mamba-2 layers with a few of attention, experts beside a shared one.

The attention may go without positions. Where there are no experts, every layer has the shared feed-forward alone.
"""

from dataclasses import replace
from typing import Any

from model.checkpoint import Rule, Same
from model.config import (
    AttentionConfig,
    DenseConfig,
    LayerConfig,
    Mamba2Config,
    MixerConfig,
    ModelConfig,
    RoutedConfig,
    SharedConfig,
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
        (_number(low), _number(high)),
        hf.get("rms_norm_eps", 1e-6),
    )


def _number(value: Any) -> float:
    """JSON has no infinity: transformers writes it as {"__float__": "Infinity"}."""
    return float(value["__float__"] if isinstance(value, dict) else value)


def _feed_forward(hf: HfConfig) -> DenseConfig | RoutedConfig:
    experts, shared_width = hf.get("num_local_experts", 8), hf.get("shared_intermediate_size", 1024)
    if not experts:
        return DenseConfig(shared_width)
    router = TopKSoftmaxConfig(hf.get("num_experts_per_tok", 2))
    return RoutedConfig(router, experts, hf["intermediate_size"], SharedConfig(shared_width))


def rules(config: ModelConfig) -> list[Rule]:
    found = standard.frame_rules(config)
    for index, layer in enumerate(config.layers):
        ours, theirs = f"blocks.{index}", f"model.layers.{index}"
        found += standard.block_norm_rules(ours, theirs)
        if isinstance(layer.mixer, AttentionConfig):
            found += standard.attention_rules(f"{ours}.mixer", f"{theirs}.self_attn", layer.mixer)
        elif isinstance(layer.mixer, Mamba2Config):
            found += _mamba_rules(f"{ours}.mixer", f"{theirs}.mamba", layer.mixer)
        ours = f"{ours}.feed_forward"
        if isinstance(layer.feed_forward, RoutedConfig):
            found.append(Rule(f"{ours}.gate.weight", (f"{theirs}.block_sparse_moe.router.layer.weight",)))
            found += _fused(f"{ours}.experts", f"{theirs}.block_sparse_moe")
            found += _fused(f"{ours}.shared", f"{theirs}.shared_mlp")
        else:
            found += _fused(ours, f"{theirs}.shared_mlp")
    return found


def _fused(ours: str, theirs: str) -> list[Rule]:
    """A gated feed-forward, or all experts, stored as we hold them."""
    return [
        Rule(f"{ours}.gate_up.weight", (f"{theirs}.input_linear.weight",)),
        Rule(f"{ours}.down.weight", (f"{theirs}.output_linear.weight",)),
    ]


def _mamba_rules(ours: str, theirs: str, config: Mamba2Config) -> list[Rule]:
    channels, taps = config.conv_channels, config.conv_width
    names = ["in_proj.weight", "out_proj.weight", "A_log", "D", "dt_bias", "norm.weight"]
    if config.projection_bias:
        names += ["in_proj.bias", "out_proj.bias"]
    found = [Rule(f"{ours}.{name}", (f"{theirs}.{name}",)) for name in names]
    if config.conv_bias:
        found.append(Rule(f"{ours}.conv_bias", (f"{theirs}.conv1d.bias",)))
    merge = Same((channels, 1, taps), (channels, taps))
    return [*found, Rule(f"{ours}.conv_weight", (f"{theirs}.conv1d.weight",), merge)]
