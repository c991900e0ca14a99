"""LFM2 (`model_type` lfm2): gated short convolutions and some attention layers, with gated MLPs."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from model.checkpoints.rules import Rule
from model.config import (
    AttentionConfig,
    GatedMLPConfig,
    MixerConfig,
    ModelConfig,
    MoEConfig,
    NormConfig,
    QKNormConfig,
    ShortConvConfig,
)
from model.families import standard
from model.families.standard import HfConfig, PartRules

FEED_FORWARD_NAMES = ("w1", "w3", "w2")  # gate, up, down


def config_from_hf(hf: HfConfig) -> ModelConfig:
    return decoder(hf, [GatedMLPConfig(_width(hf))] * hf["num_hidden_layers"])


def _width(hf: HfConfig) -> int:
    """The width of the MLP: that of the config, or two thirds of it times a factor, rounded up to a multiple."""
    width = int(hf["block_ff_dim"] if "block_ff_dim" in hf else hf["intermediate_size"])
    if not hf.get("block_auto_adjust_ff_dim", True):
        return width
    width, factor, multiple = 2 * width // 3, hf.get("block_ffn_dim_multiplier", 1.0), hf.get("block_multiple_of", 256)
    return width if factor is None else multiple * -(-int(factor * width) // multiple)


def decoder(hf: HfConfig, feed_forwards: Sequence[GatedMLPConfig | MoEConfig]) -> ModelConfig:
    """The network with these feed-forwards, one per layer."""
    norm = NormConfig(hf.get("norm_eps", 1e-5))
    attention = standard.attention({"rope_theta": 1e6} | dict(hf))
    mixers: dict[str, MixerConfig] = {
        "full_attention": replace(attention, qk_norm=QKNormConfig(norm)),
        "conv": ShortConvConfig(hf.get("conv_L_cache", 3), hf.get("conv_bias", False)),
    }
    layers = standard.paired_layers(standard.of_kinds(_layer_types(hf), mixers), feed_forwards)
    tied = hf.get("tie_embedding", hf.get("tie_word_embeddings", True))
    return replace(standard.decoder(hf, layers), norm=norm, tie_word_embeddings=tied)


def _layer_types(hf: HfConfig) -> list[str]:
    if hf.get("layer_types"):
        return list(hf["layer_types"])
    indices = range(hf["num_hidden_layers"])
    attention = hf.get("full_attn_idxs")
    return ["full_attention" if attention is None or index in attention else "conv" for index in indices]


def rules(config: ModelConfig, moe: PartRules | None = None) -> list[Rule]:
    """`moe` are the rules of MoE layers, if there are any."""
    own: dict[type, PartRules] = {
        AttentionConfig: partial(standard.attention_rules, out="out_proj", norms=("q_layernorm", "k_layernorm")),
        ShortConvConfig: _short_conv_rules,
        GatedMLPConfig: _mlp_rules,
    }
    if moe is not None:
        own[MoEConfig] = moe
    norms = {"mixer_norm": "operator_norm", "feed_forward_norm": "ffn_norm"}
    return standard.decoder_rules(config, own, norms=norms, final_norm="embedding_norm")


def _mlp_rules(ours: str, theirs: str, config: GatedMLPConfig, hidden_size: int) -> list[Rule]:
    return standard.gated_mlp_rules(ours, f"{theirs}.feed_forward", config.width, FEED_FORWARD_NAMES)


def _short_conv_rules(ours: str, theirs: str, config: ShortConvConfig, hidden_size: int) -> list[Rule]:
    theirs += ".conv"
    names = ["in_proj.weight", "out_proj.weight"]
    if config.bias:
        names += ["in_proj.bias", "out_proj.bias"]
    return [
        *(Rule(f"{ours}.{name}", (f"{theirs}.{name}",)) for name in names),
        *standard.conv_rules(ours, f"{theirs}.conv", hidden_size, config.conv_width, bias=config.bias),
    ]
