"""The metadata of a GGUF file as the config.json of the checkpoint it was made from."""

from collections import Counter
from collections.abc import Callable, Sequence
from math import prod

from model.checkpoints.gguf import hybrid_configs as hybrid
from model.checkpoints.gguf.config_parts import (
    Json,
    deepseek_moe,
    experts,
    latent_attention,
    layer_types,
    only_experts,
    rope_scaling,
    rotary_part,
)
from model.checkpoints.gguf.file import StoredTensor
from model.checkpoints.gguf.metadata import Metadata
from model.checkpoints.reader import CheckpointError

SOFTMAX, SIGMOID = 1, 2  # gating functions


def hf_config(metadata: Metadata) -> Json:
    """config.json. CheckpointError for an architecture that no family has, and where metadata is missing."""
    architecture = metadata.architecture
    if architecture not in CONFIGS:
        raise CheckpointError(
            f"{metadata.name} has the architecture {architecture!r}, which is not supported; supported: "
            f"{', '.join(CONFIGS)}"
        )
    config = _common(metadata) | CONFIGS[architecture](metadata)
    return config | {"quantization_config": _quantization(metadata)}


def _common(metadata: Metadata) -> Json:
    heads, hidden = metadata.number("attention.head_count"), metadata.number("embedding_length")
    rotary = metadata.number("rope.dimension_count", 0)
    return {
        "vocab_size": metadata.rows("token_embd.weight"),
        "hidden_size": hidden,
        "num_hidden_layers": metadata.layers - metadata.number("nextn_predict_layers", 0),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.number("attention.head_count_kv", heads),
        "head_dim": metadata.number("attention.key_length", 0) or rotary or hidden // max(heads, 1),
        "intermediate_size": metadata.number("feed_forward_length", 0),
        "max_position_embeddings": metadata.number("context_length"),
        "rms_norm_eps": metadata.real("attention.layer_norm_rms_epsilon"),
        "rope_theta": metadata.real("rope.freq_base", 10_000.0),
        "rope_scaling": rope_scaling(metadata),
        "attention_bias": any(name.endswith("attn_output.bias") for name in metadata.tensors),
        "tie_word_embeddings": "output.weight" not in metadata.tensors,
        "hidden_act": "silu",
        "is_causal": metadata.get("attention.causal", True),
    }


def _quantization(metadata: Metadata) -> Json | None:
    """The most common type of the layers' matrices, and with how many bits per weight layers and head are served."""
    matrices = [t for name, t in metadata.tensors.items() if len(t.shape) > 1 and name.startswith("blk.")]
    weights = Counter[str]()
    for matrix in matrices:
        if matrix.type.format is not None:
            weights[matrix.type.name] += prod(matrix.shape)
    if not weights:
        return None
    heads = [t for t in map(metadata.tensors.get, ("output.weight", "token_embd.weight")) if t is not None]
    return {
        "quant_method": "gguf",
        "type": weights.most_common(1)[0][0],
        "bits_per_weight": round(_served_bits(matrices), 3),
        "head_bits_per_weight": _served_bits(heads[:1]),
    }


def _served_bits(matrices: Sequence[StoredTensor]) -> float:
    weights = [prod(matrix.shape) for matrix in matrices]
    bits = (count * m.type.served_bits for count, m in zip(weights, matrices, strict=True))
    return sum(bits) / sum(weights)


def _llama(metadata: Metadata) -> Json:
    if not metadata.get("expert_count"):
        return {"model_type": "llama"}
    return {
        "model_type": "mixtral",
        "num_local_experts": metadata.experts,
        "num_experts_per_tok": metadata.number("expert_used_count"),
    }


def _qwen2(metadata: Metadata) -> Json:
    return {"model_type": "qwen2", "use_sliding_window": False}


def _qwen2_moe(metadata: Metadata) -> Json:
    return {
        "model_type": "qwen2_moe",
        **experts(metadata),
        "shared_expert_intermediate_size": metadata.rows("blk.0.ffn_gate_shexp.weight"),
        "qkv_bias": "blk.0.attn_q.bias" in metadata.tensors,
        "norm_topk_prob": False,
        "use_sliding_window": False,
    }


def _qwen3(metadata: Metadata) -> Json:
    return {"model_type": "qwen3", "use_sliding_window": False}


def _qwen3_moe(metadata: Metadata) -> Json:
    return {"model_type": "qwen3_moe", **experts(metadata), "norm_topk_prob": True, "use_sliding_window": False}


def _olmoe(metadata: Metadata) -> Json:
    return {
        "model_type": "olmoe",
        **only_experts(metadata),
        "norm_topk_prob": False,
    }


def _olmo2(metadata: Metadata) -> Json:
    """OLMo 2, or OLMo 3 if there are windows, whose layers have positions that are not scaled."""
    if metadata.get("attention.sliding_window") is None:
        return {"model_type": "olmo2"}
    return {
        "model_type": "olmo3",
        "sliding_window": metadata.number("attention.sliding_window"),
        "layer_types": layer_types(metadata, default=4),
    }


def _smollm3(metadata: Metadata) -> Json:
    return {"model_type": "smollm3", "no_rope_layer_interval": 4}


def _phi3(metadata: Metadata) -> Json:
    heads = metadata.number("attention.head_count")
    return {
        "model_type": "phi3",
        "head_dim": metadata.number("embedding_length") // max(heads, 1),
        "sliding_window": metadata.number("attention.sliding_window", 0) or None,
        "partial_rotary_factor": rotary_part(metadata),
        "rope_scaling": _longrope(metadata),
    }


def _longrope(metadata: Metadata) -> Json | None:
    if "rope_factors_long.weight" not in metadata.tensors:
        return rope_scaling(metadata)
    return {
        "rope_type": "longrope",
        "long_factor": metadata.read("rope_factors_long.weight"),
        "short_factor": metadata.read("rope_factors_short.weight"),
        "original_max_position_embeddings": metadata.number("rope.scaling.original_context_length"),
        "attention_factor": metadata.real("rope.scaling.attn_factor", 1.0),
    }


def _phimoe(metadata: Metadata) -> Json:
    scaling = _longrope(metadata)
    if scaling and scaling["rope_type"] == "longrope":  # llama.cpp has one magnitude for all lengths
        scaling |= dict.fromkeys(("short_mscale", "long_mscale"), scaling["attention_factor"])
    return {
        "model_type": "phimoe",
        "num_local_experts": metadata.experts,
        "num_experts_per_tok": metadata.number("expert_used_count"),
        "sliding_window": metadata.number("attention.sliding_window", 0) or None,
        "rope_scaling": scaling,
        "lm_head_bias": "output.bias" in metadata.tensors,
    }


def _hunyuan_moe(metadata: Metadata) -> Json:
    """llama.cpp stores the base of the rotary positions as `alpha` has stretched it."""
    routed = only_experts(metadata)
    return {
        **routed,
        "model_type": "hunyuan_v1_moe",
        "moe_topk": routed["num_experts_per_tok"],
        "attention_bias": "blk.0.attn_q.bias" in metadata.tensors,
    }


def _glm4(metadata: Metadata) -> Json:
    return {
        "model_type": "glm4",
        "partial_rotary_factor": rotary_part(metadata),
        "attention_bias": "blk.0.attn_q.bias" in metadata.tensors,
    }


def _gemma3(metadata: Metadata) -> Json:
    """The scale of the scores is that of the published models: it follows the head width, except with 62 layers."""
    heads, hidden = metadata.number("attention.head_count"), metadata.number("embedding_length")
    is_27b = metadata.layers == 62
    return {
        "model_type": "gemma3_text",
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": metadata.number("attention.sliding_window"),
        "layer_types": layer_types(metadata, default=6),
        "rope_local_base_freq": metadata.real("rope.freq_base_swa", 10_000.0),
        "query_pre_attn_scalar": hidden // max(heads, 1) if is_27b else metadata.number("attention.key_length"),
        "final_logit_softcapping": metadata.real("final_logit_softcapping", 0.0) or None,
    }


def _gpt_oss(metadata: Metadata) -> Json:
    scaling = rope_scaling(metadata)
    return {
        **only_experts(metadata),
        "model_type": "gpt_oss",
        "sliding_window": metadata.number("attention.sliding_window"),
        "layer_types": layer_types(metadata, default=2),
        "rope_scaling": scaling and {**scaling, "truncate": False},
        "attention_bias": True,
    }


def _glm4_moe(metadata: Metadata) -> Json:
    return {
        **deepseek_moe(metadata),
        "model_type": "glm4_moe",
        "partial_rotary_factor": rotary_part(metadata),
        "use_qk_norm": "blk.0.attn_q_norm.weight" in metadata.tensors,
        "attention_bias": "blk.0.attn_q.bias" in metadata.tensors,
        "num_nextn_predict_layers": 0,
    }


def _dots1(metadata: Metadata) -> Json:
    return {**deepseek_moe(metadata), "model_type": "dots1", "sliding_window": None}


def _ernie4_5_moe(metadata: Metadata) -> Json:
    first = metadata.first_layer_with("ffn_gate_exps.weight")
    routed = experts(metadata, first)
    shared, width = f"blk.{first}.ffn_up_shexp.weight", routed["moe_intermediate_size"]
    return {
        "model_type": "ernie4_5_moe",
        "moe_num_experts": routed["num_experts"],
        "moe_k": routed["num_experts_per_tok"],
        "moe_intermediate_size": width,
        "moe_num_shared_experts": metadata.rows(shared) // max(width, 1) if shared in metadata.tensors else 0,
        "moe_layer_start_index": metadata.number("leading_dense_block_count", 1),
        "moe_layer_interval": metadata.number("interleave_moe_layer_step", 1),
    }


def _minimax_m2(metadata: Metadata) -> Json:
    return {
        **only_experts(metadata),
        "model_type": "minimax_m2",
        "rotary_dim": metadata.number("rope.dimension_count"),
    }


def _afmoe(metadata: Metadata) -> Json:
    """llama.cpp always scales the embeddings."""
    dense = metadata.number("leading_dense_block_count", 0)
    return {
        **experts(metadata, dense),
        "model_type": "afmoe",
        "num_dense_layers": dense,
        "num_shared_experts": metadata.number("expert_shared_count", 1),
        "route_scale": metadata.real("expert_weights_scale", 1.0),
        "sliding_window": metadata.number("attention.sliding_window"),
        "layer_types": layer_types(metadata, default=4),
        "mup_enabled": True,
    }


def _deepseek2(metadata: Metadata) -> Json:
    """Files without a gating function are of V2, or early ones of GLM-4.7-Flash, whose routers have biases."""
    routed, has_bias = deepseek_moe(metadata), any(name.endswith("exp_probs_b.bias") for name in metadata.tensors)
    is_v3 = metadata.get("expert_gating_func", SIGMOID if has_bias else SOFTMAX) == SIGMOID
    if metadata.real("attention.temperature_scale", 0.0) or (routed["norm_topk_prob"] and not is_v3):
        raise CheckpointError(
            f"{metadata.name} has attention scores that are scaled by position, or weights of experts that are "
            "normalized after a softmax, as Mistral Large 3: these are not supported for deepseek2"
        )
    return {
        **routed,
        **latent_attention(metadata),
        "model_type": "deepseek_v3" if is_v3 else "deepseek_v2",
        "scoring_func": "sigmoid" if is_v3 else "softmax",
        "topk_method": "noaux_tc" if is_v3 else "group_limited_greedy" if routed["n_group"] > 1 else "greedy",
        "rope_scaling": _deepseek_rope(metadata),
        "num_nextn_predict_layers": 0,
    }


def _deepseek_rope(metadata: Metadata) -> Json | None:
    """YaRN with the magnitude that llama.cpp keeps as a tenth of `mscale_all_dim`, to which `mscale` is equal."""
    scaling, tenth = rope_scaling(metadata), metadata.real("rope.scaling.yarn_log_multiplier", 0.0)
    if scaling is None or not tenth:
        return scaling
    magnitude = round(10 * tenth, 6)
    return {**scaling, "mscale": magnitude, "mscale_all_dim": magnitude}


CONFIGS: dict[str, Callable[[Metadata], Json]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen2moe": _qwen2_moe,
    "qwen3": _qwen3,
    "qwen3moe": _qwen3_moe,
    "qwen3next": hybrid.qwen3_next,
    "qwen35moe": hybrid.qwen35_moe,
    "olmoe": _olmoe,
    "olmo2": _olmo2,
    "smollm3": _smollm3,
    "phi3": _phi3,
    "phimoe": _phimoe,
    "glm4": _glm4,
    "gemma3": _gemma3,
    "granite": hybrid.granite,
    "granitemoe": hybrid.granite_moe,
    "granitehybrid": hybrid.granite_hybrid,
    "lfm2": hybrid.lfm2,
    "lfm2moe": hybrid.lfm2_moe,
    "gpt-oss": _gpt_oss,
    "deepseek2": _deepseek2,
    "glm4moe": _glm4_moe,
    "dots1": _dots1,
    "ernie4_5-moe": _ernie4_5_moe,
    "minimax-m2": _minimax_m2,
    "afmoe": _afmoe,
    "hunyuan-moe": _hunyuan_moe,
    "nemotron_h": hybrid.nemotron_h,
    "nemotron_h_moe": hybrid.nemotron_h,
    "jamba": hybrid.jamba,
    "kimi-linear": hybrid.kimi_linear,
}
