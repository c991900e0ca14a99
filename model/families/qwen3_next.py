"""Qwen3-Next (`model_type` qwen3_next): Gated DeltaNet and gated attention, routed experts with a shared one.

The bundled model is of this family, so its directory loads in other engines too. What they need beyond the obvious:
a periodic layer pattern written twice (`layer_types` and `full_attention_interval`), rotary settings at the top level
and in `rope_parameters`, renormalized gates, an expert mixture in every layer, an explicit `lm_head.weight`.
"""

from collections.abc import Mapping
from typing import Any

from model.checkpoint import Concat, PerHead, Rule, Same, Stack
from model.config import (
    AttentionConfig,
    DeltaNetConfig,
    DenseConfig,
    LayerConfig,
    ModelConfig,
    RoutedConfig,
    SoftmaxTopKConfig,
)


def config_from_hf(hf: Mapping[str, Any]) -> ModelConfig:
    rope = hf.get("rope_parameters") or hf
    head_dim = hf["head_dim"]
    rotary_dim = int(head_dim * rope.get("partial_rotary_factor", hf.get("partial_rotary_factor", 0.25)))
    theta = float(rope.get("rope_theta", hf.get("rope_theta", 10_000.0)))
    attention = AttentionConfig(hf["num_attention_heads"], hf["num_key_value_heads"], head_dim, rotary_dim, theta)
    delta_net = DeltaNetConfig(
        hf["linear_num_key_heads"],
        hf["linear_num_value_heads"],
        hf["linear_key_head_dim"],
        hf["linear_value_head_dim"],
        hf["linear_conv_kernel_dim"],
    )
    router = SoftmaxTopKConfig(hf["num_experts_per_tok"], renormalize=hf.get("norm_topk_prob", True))
    routed = RoutedConfig(router, hf["num_experts"], hf["moe_intermediate_size"], hf["shared_expert_intermediate_size"])
    dense = DenseConfig(hf["intermediate_size"])
    sparse_step, dense_layers = hf.get("decoder_sparse_step", 1), hf.get("mlp_only_layers") or []

    def layer(index: int, kind: str) -> LayerConfig:
        is_routed = index not in dense_layers and (index + 1) % sparse_step == 0
        mixer = attention if kind == "full_attention" else delta_net
        return LayerConfig(mixer, routed if is_routed else dense)

    layers = tuple(layer(index, kind) for index, kind in enumerate(_layer_types(hf)))
    return ModelConfig(hf["vocab_size"], hf["hidden_size"], layers, hf["max_position_embeddings"], hf["rms_norm_eps"])


def _layer_types(hf: Mapping[str, Any]) -> list[str]:
    if hf.get("layer_types"):
        return list(hf["layer_types"])
    interval = hf.get("full_attention_interval", 4)
    return [
        "full_attention" if (index + 1) % interval == 0 else "linear_attention"
        for index in range(hf["num_hidden_layers"])
    ]


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    attention = next(la.mixer for la in config.layers if isinstance(la.mixer, AttentionConfig))
    delta_net = next(la.mixer for la in config.layers if isinstance(la.mixer, DeltaNetConfig))
    routed = [la.feed_forward for la in config.layers if isinstance(la.feed_forward, RoutedConfig)]
    if len(routed) != len(config.layers) or not isinstance(routed[0].router, SoftmaxTopKConfig):
        raise ValueError("qwen3_next stores softmax top-k routers in every layer and nothing else")
    kinds = ["full_attention" if isinstance(la.mixer, AttentionConfig) else "linear_attention" for la in config.layers]
    rope = {
        "rope_type": "default",
        "rope_theta": attention.rope_theta,
        "partial_rotary_factor": attention.rotary_dim / attention.head_dim,
    }
    return {
        "architectures": ["Qwen3NextForCausalLM"],
        "model_type": "qwen3_next",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": routed[0].expert_width,
        "num_hidden_layers": len(config.layers),
        "layer_types": kinds,
        "full_attention_interval": kinds.index("full_attention") + 1,
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.num_kv_heads,
        "head_dim": attention.head_dim,
        "rope_parameters": rope,
        "rope_theta": attention.rope_theta,
        "partial_rotary_factor": rope["partial_rotary_factor"],
        "linear_num_key_heads": delta_net.num_key_heads,
        "linear_num_value_heads": delta_net.num_value_heads,
        "linear_key_head_dim": delta_net.key_dim,
        "linear_value_head_dim": delta_net.value_dim,
        "linear_conv_kernel_dim": delta_net.conv_width,
        "num_experts": routed[0].num_experts,
        "num_experts_per_tok": routed[0].router.top_k,
        "norm_topk_prob": routed[0].router.renormalize,
        "moe_intermediate_size": routed[0].expert_width,
        "shared_expert_intermediate_size": routed[0].shared_width,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_positions,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_cache": True,
    }


def rules(config: ModelConfig) -> list[Rule]:
    found = [
        Rule("embedding.weight", ("model.embed_tokens.weight",)),
        Rule("norm.weight", ("model.norm.weight",)),
        Rule("head.weight", ("lm_head.weight",)),
    ]
    for index, layer in enumerate(config.layers):
        ours, theirs = f"blocks.{index}", f"model.layers.{index}"
        found += [
            Rule(f"{ours}.mixer_norm.weight", (f"{theirs}.input_layernorm.weight",)),
            Rule(f"{ours}.feed_forward_norm.weight", (f"{theirs}.post_attention_layernorm.weight",)),
        ]
        if isinstance(layer.mixer, AttentionConfig):
            found += _attention(f"{ours}.mixer", f"{theirs}.self_attn", layer.mixer)
        else:
            found += _delta_net(f"{ours}.mixer", f"{theirs}.linear_attn", layer.mixer)
        if isinstance(layer.feed_forward, RoutedConfig):
            found += _routed(f"{ours}.feed_forward", f"{theirs}.mlp", layer.feed_forward, config.hidden_size)
        else:
            found += _dense(f"{ours}.feed_forward", f"{theirs}.mlp", layer.feed_forward.width)
    return found


def _attention(ours: str, theirs: str, config: AttentionConfig) -> list[Rule]:
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


def _delta_net(ours: str, theirs: str, config: DeltaNetConfig) -> list[Rule]:
    per_key_head = config.num_value_heads // config.num_key_heads
    values = per_key_head * config.value_dim
    heads = config.num_key_heads
    layout = PerHead(((heads, (config.key_dim, config.key_dim, values, values)), (heads, (per_key_head, per_key_head))))
    channels, taps = config.conv_channels, config.conv_width
    return [
        Rule(f"{ours}.in_proj.weight", (f"{theirs}.in_proj_qkvz.weight", f"{theirs}.in_proj_ba.weight"), layout),
        Rule(f"{ours}.conv_weight", (f"{theirs}.conv1d.weight",), Same((channels, 1, taps), (channels, taps))),
        Rule(f"{ours}.A_log", (f"{theirs}.A_log",)),
        Rule(f"{ours}.dt_bias", (f"{theirs}.dt_bias",)),
        Rule(f"{ours}.norm.weight", (f"{theirs}.norm.weight",)),
        Rule(f"{ours}.out_proj.weight", (f"{theirs}.out_proj.weight",)),
    ]


def _routed(ours: str, theirs: str, config: RoutedConfig, hidden_size: int) -> list[Rule]:
    experts, width = config.num_experts, config.expert_width

    def names(*parts: str) -> tuple[str, ...]:
        return tuple(f"{theirs}.experts.{e}.{part}_proj.weight" for e in range(experts) for part in parts)

    return [
        Rule(
            f"{ours}.gate.weight",
            (f"{theirs}.gate.weight", f"{theirs}.shared_expert_gate.weight"),
            Concat((experts, 1)),
        ),
        Rule(f"{ours}.experts.gate_up.weight", names("gate", "up"), Stack(experts, (width, width))),
        Rule(f"{ours}.experts.down.weight", names("down"), Stack(experts, (hidden_size,))),
        *_dense(f"{ours}.shared", f"{theirs}.shared_expert", config.shared_width),
    ]


def _dense(ours: str, theirs: str, width: int) -> list[Rule]:
    return [
        Rule(
            f"{ours}.gate_up.weight",
            (f"{theirs}.gate_proj.weight", f"{theirs}.up_proj.weight"),
            Concat((width, width)),
        ),
        Rule(f"{ours}.down.weight", (f"{theirs}.down_proj.weight",)),
    ]
