"""Kimi Linear (`model_type` kimi_linear): Kimi Delta Attention and some layers of latent attention, sigmoid routers.

Latent attention has no position embedding. `layouts` has the names of dense layers in published checkpoints, and those
that transformers writes.
"""

from functools import partial
from typing import Any

from model.checkpoints.rules import Chain, Concat, Rule, Same
from model.config import (
    GatedMLPConfig,
    KimiDeltaConfig,
    LatentAttentionConfig,
    MixerConfig,
    ModelConfig,
    MoEConfig,
    NormConfig,
    NoRotary,
    SharedExpertConfig,
)
from model.families import deepseek_v2, deepseek_v3, standard
from model.families.standard import HfConfig

_DEFAULTS: dict[str, Any] = {
    "rms_norm_eps": 1e-5,
    "kv_lora_rank": 512,
    "q_lora_rank": None,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "num_experts": 256,
    "num_experts_per_token": 8,
    "num_shared_experts": 1,
    "moe_renormalize": True,
    "routed_scaling_factor": 2.446,
    "num_expert_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "model_max_length": 1_048_576,
}


def config_from_hf(hf: HfConfig) -> ModelConfig:
    standard.require(hf, hidden_act="silu", attention_bias=False, moe_router_activation_func="sigmoid")
    standard.require(hf, mla_use_nope=True, moe_layer_freq=1)
    hf = _DEFAULTS | dict(hf)
    hf = {"max_position_embeddings": hf["model_max_length"], **hf}
    mixers: dict[str, MixerConfig] = {"full_attention": _latent(hf), "linear_attention": _kimi_delta(hf)}
    feed_forwards: dict[str, GatedMLPConfig | MoEConfig] = {
        "dense": GatedMLPConfig(hf["intermediate_size"]),
        "sparse": _moe(hf),
    }
    of_layers = standard.of_kinds(_layer_types(hf), mixers), standard.of_kinds(_mlp_layer_types(hf), feed_forwards)
    return standard.decoder(hf, standard.paired_layers(*of_layers))


def _layer_types(hf: HfConfig) -> list[str]:
    """Published configs list the numbers of the layers of each type, from 1."""
    if hf.get("layer_types"):
        return list(hf["layer_types"])
    count, full = hf["num_hidden_layers"], hf.get("linear_attn_config", {}).get("full_attn_layers")
    if full is None:
        return ["full_attention" if index and index % 4 == 0 else "linear_attention" for index in range(count)]
    return ["full_attention" if index + 1 in full else "linear_attention" for index in range(count)]


def _mlp_layer_types(hf: HfConfig) -> list[str]:
    count, num_dense = hf["num_hidden_layers"], hf["first_k_dense_replace"]
    return hf.get("mlp_layer_types") or ["dense" if index < num_dense else "sparse" for index in range(count)]


def _latent(hf: HfConfig) -> LatentAttentionConfig:
    return LatentAttentionConfig(
        num_heads=hf["num_attention_heads"],
        q_lora_rank=hf["q_lora_rank"],
        kv_lora_rank=hf["kv_lora_rank"],
        nope_head_dim=hf["qk_nope_head_dim"],
        value_dim=hf["v_head_dim"],
        rotary=NoRotary(hf["qk_rope_head_dim"]),
        norm=NormConfig(1e-6),  # regardless of `rms_norm_eps`
        scale=(hf["qk_nope_head_dim"] + hf["qk_rope_head_dim"]) ** -0.5,
    )


def _kimi_delta(hf: HfConfig) -> KimiDeltaConfig:
    own = hf.get("linear_attn_config", {})
    return KimiDeltaConfig(
        own.get("num_heads", hf.get("linear_num_heads", 32)),
        own.get("head_dim", hf.get("linear_head_dim", 128)),
        own.get("short_conv_kernel_size", hf.get("linear_conv_kernel_dim", 4)),
        hf["rms_norm_eps"],
    )


def _moe(hf: HfConfig) -> MoEConfig:
    names = {
        "num_experts_per_tok": "num_experts_per_token",
        "norm_topk_prob": "moe_renormalize",
        "n_group": "num_expert_group",
    }
    router = deepseek_v3.router(dict(hf) | {name: hf[own] for name, own in names.items()})
    width = hf["moe_intermediate_size"]
    return MoEConfig(router, hf["num_experts"], width, SharedExpertConfig(width * hf["num_shared_experts"]))


def rules(config: ModelConfig) -> list[Rule]:
    """As transformers writes them."""
    return _rules(config, dense="block_sparse_moe")


def layouts(config: ModelConfig) -> list[list[Rule]]:
    return [rules(config), _rules(config, dense="mlp")]


def _rules(config: ModelConfig, dense: str) -> list[Rule]:
    """`dense`: the name of the feed-forward in layers without experts."""
    return standard.decoder_rules(
        config,
        {
            LatentAttentionConfig: deepseek_v2.attention_rules,
            KimiDeltaConfig: _kimi_delta_rules,
            MoEConfig: _moe_rules,
            GatedMLPConfig: partial(_mlp_rules, dense),
        },
    )


def _mlp_rules(name: str, ours: str, theirs: str, config: GatedMLPConfig, hidden_size: int) -> list[Rule]:
    return standard.gated_mlp_rules(ours, f"{theirs}.{name}", config.width)


def _moe_rules(ours: str, theirs: str, config: MoEConfig, hidden_size: int) -> list[Rule]:
    assert config.shared is not None
    theirs, experts, width = f"{theirs}.block_sparse_moe", config.num_experts, config.expert_width
    names = ("w1", "w3", "w2")
    return [
        Rule(f"{ours}.gate.weight", (f"{theirs}.gate.weight",)),
        Rule(f"{ours}.router.bias_E", (f"{theirs}.gate.e_score_correction_bias",)),
        *standard.expert_rules(
            f"{ours}.experts", f"{theirs}.experts", experts=experts, width=width, hidden_size=hidden_size, names=names
        ),
        *standard.gated_mlp_rules(f"{ours}.shared", f"{theirs}.shared_experts", config.shared.width),
    ]


def _kimi_delta_rules(ours: str, theirs: str, config: KimiDeltaConfig, hidden_size: int) -> list[Rule]:
    theirs += ".self_attn"
    heads, width, rank, taps = config.num_heads, config.width, config.head_dim, config.conv_width
    inputs = tuple(f"{theirs}.{name}_proj.weight" for name in ("q", "k", "v", "b", "f_a", "g_a"))
    convolutions = tuple(f"{theirs}.{name}_conv1d.weight" for name in "qkv")
    names = {"decay_proj": "f_b_proj", "gate_proj": "g_b_proj", "out_proj": "o_proj", "norm": "o_norm"}
    return [
        Rule(f"{ours}.in_proj.weight", inputs, Concat((width, width, width, heads, rank, rank))),
        Rule(
            f"{ours}.conv_weight",
            convolutions,
            Chain((Concat((width,) * 3), Same((3 * width, 1, taps), (3 * width, taps)))),
        ),
        Rule(f"{ours}.A_log", (f"{theirs}.A_log",), Same((1, 1, heads, 1), (heads,))),
        Rule(f"{ours}.dt_bias", (f"{theirs}.dt_bias",), Same((width,), (heads, rank))),
        *(Rule(f"{ours}.{our}.weight", (f"{theirs}.{name}.weight",)) for our, name in names.items()),
    ]
