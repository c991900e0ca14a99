"""Qwen3-Next (`model_type` qwen3_next): Gated DeltaNet and gated attention, MoE with a shared expert.

The bundled model is of this family, so other engines can load its directory too. They need some redundant settings: the
periodic layer pattern in `layer_types` and in `full_attention_interval`, the rotary settings at the top level and in
`rope_parameters`; and renormalized weights, MoE in every layer, an explicit `lm_head.weight`.
"""

from dataclasses import replace
from typing import Any, TypeVar

from model.checkpoints.rules import PerHead, Rule
from model.config import (
    AttentionConfig,
    DeltaNetConfig,
    GatedMLPConfig,
    LayerConfig,
    MixerConfig,
    ModelConfig,
    MoEConfig,
    NormConfig,
    QKNormConfig,
    SharedExpertConfig,
    SoftmaxTopKConfig,
)
from model.families import rope, standard
from model.families.standard import HfConfig

_KINDS: dict[type, str] = {AttentionConfig: "full_attention", DeltaNetConfig: "linear_attention"}

Mixer = TypeVar("Mixer")


def config_from_hf(hf: HfConfig) -> ModelConfig:
    standard.require(hf, hidden_act="silu")
    mixers: dict[str, MixerConfig] = {"full_attention": _attention(hf), "linear_attention": _delta_net(hf)}
    moe, dense = _moe(hf), GatedMLPConfig(hf["intermediate_size"])
    layers = [
        LayerConfig(mixer, moe if standard.is_moe_layer(hf, index) else dense)
        for index, mixer in enumerate(standard.of_kinds(_layer_types(hf), mixers))
    ]
    return replace(standard.decoder(hf, layers), norm=_norm(hf))


def _norm(hf: HfConfig) -> NormConfig:
    return NormConfig(hf.get("rms_norm_eps", 1e-6), offset=1.0)


def _attention(hf: HfConfig) -> AttentionConfig:
    return AttentionConfig(
        hf["num_attention_heads"],
        hf["num_key_value_heads"],
        hf["head_dim"],
        rope.rotary(hf, hf["head_dim"], partial=0.25),
        qk_norm=QKNormConfig(_norm(hf)),
        output_gate=True,
        input_bias=hf.get("attention_bias", False),
        output_bias=hf.get("attention_bias", False),
    )


def _delta_net(hf: HfConfig) -> DeltaNetConfig:
    return DeltaNetConfig(
        hf["linear_num_key_heads"],
        hf["linear_num_value_heads"],
        hf["linear_key_head_dim"],
        hf["linear_value_head_dim"],
        hf.get("linear_conv_kernel_dim", 4),
        hf.get("rms_norm_eps", 1e-6),
    )


def _moe(hf: HfConfig) -> MoEConfig:
    router = SoftmaxTopKConfig(hf["num_experts_per_tok"], renormalize=hf.get("norm_topk_prob", True))
    shared = SharedExpertConfig(hf["shared_expert_intermediate_size"], gated=True)
    return MoEConfig(router, hf["num_experts"], hf["moe_intermediate_size"], shared)


def _layer_types(hf: HfConfig) -> list[str]:
    if hf.get("layer_types"):
        return list(hf["layer_types"])
    interval = hf.get("full_attention_interval", 4)
    return [
        "full_attention" if (index + 1) % interval == 0 else "linear_attention"
        for index in range(hf["num_hidden_layers"])
    ]


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The config.json of a network in the format of this family. ValueError if the format cannot describe it."""
    moe = _moe_keys(config)
    return {
        "architectures": ["Qwen3NextForCausalLM"],
        "model_type": "qwen3_next",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": moe["moe_intermediate_size"],  # of dense layers, which do not occur
        **_layer_keys(config),
        **_attention_keys(config),
        **_delta_net_keys(config),
        **moe,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm.eps,
        "max_position_embeddings": config.max_positions,
        "tie_word_embeddings": config.tie_word_embeddings,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_cache": True,
    }


def _layer_keys(config: ModelConfig) -> dict[str, Any]:
    kinds = [_KINDS[type(layer.mixer)] for layer in config.layers]
    return {
        "num_hidden_layers": len(kinds),
        "layer_types": kinds,
        "full_attention_interval": kinds.index("full_attention") + 1,
    }


def _first_mixer(config: ModelConfig, kind: type[Mixer]) -> Mixer:
    found = [layer.mixer for layer in config.layers if isinstance(layer.mixer, kind)]
    if not found:
        raise ValueError("qwen3_next wants both layers with attention and gated delta nets")
    return found[0]


def _attention_keys(config: ModelConfig) -> dict[str, Any]:
    attention = _first_mixer(config, AttentionConfig)
    rotary = attention.rotary
    if rotary is None or rotary.scaling:
        raise ValueError("qwen3_next wants plain rotary positions")
    rope_keys = {"rope_theta": rotary.theta, "partial_rotary_factor": rotary.dim / attention.head_dim}
    return {
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.num_kv_heads,
        "head_dim": attention.head_dim,
        "rope_parameters": {"rope_type": "default", **rope_keys},
        **rope_keys,
    }


def _delta_net_keys(config: ModelConfig) -> dict[str, Any]:
    delta_net = _first_mixer(config, DeltaNetConfig)
    return {
        "linear_num_key_heads": delta_net.num_key_heads,
        "linear_num_value_heads": delta_net.num_value_heads,
        "linear_key_head_dim": delta_net.key_dim,
        "linear_value_head_dim": delta_net.value_dim,
        "linear_conv_kernel_dim": delta_net.conv_width,
    }


def _moe_keys(config: ModelConfig) -> dict[str, Any]:
    moe = [feed_forward for _, feed_forward in config.moe_layers()]
    if len(moe) != len(config.layers):
        raise ValueError("qwen3_next wants experts in every layer")
    router, shared = moe[0].router, moe[0].shared
    if not isinstance(router, SoftmaxTopKConfig) or shared is None:
        raise ValueError("qwen3_next wants softmax top-k routers and a shared expert")
    return {
        "num_experts": moe[0].num_experts,
        "num_experts_per_tok": router.top_k,
        "norm_topk_prob": router.renormalize,
        "moe_intermediate_size": moe[0].expert_width,
        "shared_expert_intermediate_size": shared.width,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def rules(config: ModelConfig) -> list[Rule]:
    return standard.decoder_rules(config, {AttentionConfig: _attention_rules, DeltaNetConfig: _delta_net_rules})


def _attention_rules(ours: str, theirs: str, config: AttentionConfig, hidden_size: int) -> list[Rule]:
    theirs += ".self_attn"
    heads, kv_heads, width = config.num_heads, config.num_kv_heads, config.head_dim
    return [
        Rule(
            f"{ours}.in_proj.weight",
            tuple(f"{theirs}.{name}_proj.weight" for name in "qkv"),
            PerHead(((heads, (width, width)), (kv_heads, (width,)), (kv_heads, (width,)))),
        ),
        Rule(f"{ours}.out_proj.weight", (f"{theirs}.o_proj.weight",)),
        Rule(f"{ours}.q_norm.weight", (f"{theirs}.q_norm.weight",)),
        Rule(f"{ours}.k_norm.weight", (f"{theirs}.k_norm.weight",)),
    ]


def _delta_net_rules(ours: str, theirs: str, config: DeltaNetConfig, hidden_size: int) -> list[Rule]:
    theirs += ".linear_attn"
    per_key_head = config.num_value_heads // config.num_key_heads
    values = per_key_head * config.value_dim
    heads = config.num_key_heads
    layout = PerHead(((heads, (config.key_dim, config.key_dim, values, values)), (heads, (per_key_head, per_key_head))))
    return [
        Rule(f"{ours}.in_proj.weight", (f"{theirs}.in_proj_qkvz.weight", f"{theirs}.in_proj_ba.weight"), layout),
        *standard.conv_rules(ours, f"{theirs}.conv1d", config.conv_channels, config.conv_width),
        Rule(f"{ours}.A_log", (f"{theirs}.A_log",)),
        Rule(f"{ours}.dt_bias", (f"{theirs}.dt_bias",)),
        Rule(f"{ours}.norm.weight", (f"{theirs}.norm.weight",)),
        Rule(f"{ours}.out_proj.weight", (f"{theirs}.out_proj.weight",)),
    ]
