"""The metadata of a GGUF file as the config.json of the checkpoint it was made from."""

from collections import Counter
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from model.checkpoints.gguf.file import StoredTensor
from model.checkpoints.gguf.metadata import Metadata
from model.checkpoints.reader import CheckpointError

Json = dict[str, Any]
SOFTMAX, SIGMOID = 1, 2  # gating functions
YARN = {"attention_factor": "attn_factor", "beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow"}


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
        "rope_scaling": _rope_scaling(metadata),
        "attention_bias": any(name.endswith("attn_output.bias") for name in metadata.tensors),
        "tie_word_embeddings": "output.weight" not in metadata.tensors,
        "hidden_act": "silu",
    }


def _rope_scaling(metadata: Metadata) -> Json | None:
    if "rope_freqs.weight" in metadata.tensors:
        return {"rope_type": "frequency_factors", "factors": metadata.read("rope_freqs.weight")}
    kind = metadata.get("rope.scaling.type")
    if kind in (None, "none"):
        return None
    if kind not in ("linear", "yarn"):
        raise CheckpointError(f"{metadata.name} has the rope scaling {kind!r}: linear and yarn are known")
    scaling: Json = {"rope_type": kind, "factor": metadata.real("rope.scaling.factor")}
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = metadata.number("rope.scaling.original_context_length")
        for ours, theirs in YARN.items():
            if metadata.get(f"rope.scaling.{theirs}") is not None:
                scaling[ours] = metadata.real(f"rope.scaling.{theirs}")
    return scaling


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


def _experts(metadata: Metadata, first: int = 0) -> Json:
    """`first`: the first layer that has experts."""
    return {
        "num_experts": metadata.experts,
        "num_experts_per_tok": metadata.number("expert_used_count"),
        "moe_intermediate_size": metadata.rows(f"blk.{first}.ffn_gate_exps.weight"),
    }


def _qwen2(metadata: Metadata) -> Json:
    return {"model_type": "qwen2", "use_sliding_window": False}


def _qwen2_moe(metadata: Metadata) -> Json:
    return {
        "model_type": "qwen2_moe",
        **_experts(metadata),
        "shared_expert_intermediate_size": metadata.rows("blk.0.ffn_gate_shexp.weight"),
        "qkv_bias": "blk.0.attn_q.bias" in metadata.tensors,
        "norm_topk_prob": False,
        "use_sliding_window": False,
    }


def _qwen3(metadata: Metadata) -> Json:
    return {"model_type": "qwen3", "use_sliding_window": False}


def _qwen3_moe(metadata: Metadata) -> Json:
    return {"model_type": "qwen3_moe", **_experts(metadata), "norm_topk_prob": True, "use_sliding_window": False}


def _olmoe(metadata: Metadata) -> Json:
    return {
        "model_type": "olmoe",
        **_experts(metadata),
        "intermediate_size": metadata.rows("blk.0.ffn_gate_exps.weight"),
        "norm_topk_prob": False,
    }


def _olmo2(metadata: Metadata) -> Json:
    """OLMo 2, or OLMo 3 if there are windows, whose layers have positions that are not scaled."""
    if metadata.get("attention.sliding_window") is None:
        return {"model_type": "olmo2"}
    return {
        "model_type": "olmo3",
        "sliding_window": metadata.number("attention.sliding_window"),
        "layer_types": _layer_types(metadata, default=4),
    }


def _layer_types(metadata: Metadata, default: int) -> list[str]:
    """Which layers have windows: all but every `default`-th where the metadata does not say it."""
    found = metadata.get("attention.sliding_window_pattern")
    if not isinstance(found, list):
        found = [(index + 1) % (found or default) != 0 for index in range(metadata.layers)]
    return ["sliding_attention" if slides else "full_attention" for slides in found]


def _smollm3(metadata: Metadata) -> Json:
    return {"model_type": "smollm3", "no_rope_layer_interval": 4}


def _phi3(metadata: Metadata) -> Json:
    heads = metadata.number("attention.head_count")
    return {
        "model_type": "phi3",
        "head_dim": metadata.number("embedding_length") // max(heads, 1),
        "sliding_window": metadata.number("attention.sliding_window", 0) or None,
        "partial_rotary_factor": _rotary_part(metadata),
        "rope_scaling": _longrope(metadata),
    }


def _rotary_part(metadata: Metadata) -> float:
    """The part of each head that has rotary positions."""
    head_dim = metadata.number("attention.key_length", 0)
    head_dim = head_dim or metadata.number("embedding_length") // metadata.number("attention.head_count")
    return metadata.number("rope.dimension_count", head_dim) / max(head_dim, 1)


def _longrope(metadata: Metadata) -> Json | None:
    if "rope_factors_long.weight" not in metadata.tensors:
        return _rope_scaling(metadata)
    return {
        "rope_type": "longrope",
        "long_factor": metadata.read("rope_factors_long.weight"),
        "short_factor": metadata.read("rope_factors_short.weight"),
        "original_max_position_embeddings": metadata.number("rope.scaling.original_context_length"),
        "attention_factor": metadata.real("rope.scaling.attn_factor", 1.0),
    }


def _glm4(metadata: Metadata) -> Json:
    return {
        "model_type": "glm4",
        "partial_rotary_factor": _rotary_part(metadata),
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
        "layer_types": _layer_types(metadata, default=6),
        "rope_local_base_freq": metadata.real("rope.freq_base_swa", 10_000.0),
        "query_pre_attn_scalar": hidden // max(heads, 1) if is_27b else metadata.number("attention.key_length"),
    }


def _delta_net(metadata: Metadata) -> Json:
    value_heads, layers = metadata.number("ssm.time_step_rank"), metadata.layers
    head_dim = metadata.number("attention.key_length")
    recurrent = [f"blk.{layer}.ssm_a" in metadata.tensors for layer in range(layers)]
    return {
        **_experts(metadata),
        "shared_expert_intermediate_size": metadata.rows("blk.0.ffn_gate_shexp.weight"),
        "linear_conv_kernel_dim": metadata.number("ssm.conv_kernel"),
        "linear_key_head_dim": metadata.number("ssm.state_size"),
        "linear_num_key_heads": metadata.number("ssm.group_count"),
        "linear_num_value_heads": value_heads,
        "linear_value_head_dim": metadata.number("ssm.inner_size") // max(value_heads, 1),
        "layer_types": ["linear_attention" if found else "full_attention" for found in recurrent]
        [: layers - metadata.number("nextn_predict_layers", 0)],
        "partial_rotary_factor": metadata.number("rope.dimension_count") / max(head_dim, 1),
        "norm_topk_prob": True,
    }  # fmt: skip


def _qwen3_next(metadata: Metadata) -> Json:
    return {"model_type": "qwen3_next", **_delta_net(metadata)}


def _qwen35_moe(metadata: Metadata) -> Json:
    return {"model_type": "qwen3_5_moe_text", **_delta_net(metadata)}


def _granite(metadata: Metadata) -> Json:
    return {
        "model_type": "granite",
        "attention_multiplier": metadata.real("attention.scale", 1.0),
        "embedding_multiplier": metadata.real("embedding_scale", 1.0),
        "residual_multiplier": metadata.real("residual_scale", 1.0),
        "logits_scaling": metadata.real("logit_scale", 1.0),
    }


def _granite_moe(metadata: Metadata) -> Json:
    shared = metadata.get("expert_shared_feed_forward_length")
    return {
        **_granite(metadata),
        "model_type": "granitemoeshared" if shared else "granitemoe",
        "num_local_experts": metadata.experts,
        "num_experts_per_tok": metadata.number("expert_used_count"),
        "intermediate_size": metadata.rows("blk.0.ffn_gate_exps.weight"),
        "shared_intermediate_size": shared,
    }


def _granite_hybrid(metadata: Metadata) -> Json:
    heads, experts = metadata.number("ssm.time_step_rank"), (metadata.experts if metadata.get("expert_count") else 0)
    shared = "blk.0.ffn_gate_shexp.weight" if experts else "blk.0.ffn_gate.weight"
    is_mamba = [f"blk.{layer}.ssm_a" in metadata.tensors for layer in range(metadata.layers)]
    moe = {"intermediate_size": metadata.rows("blk.0.ffn_gate_exps.weight")} if experts else {}
    return {
        **_granite(metadata),
        **moe,
        "model_type": "granitemoehybrid",
        "layer_types": ["mamba" if found else "attention" for found in is_mamba],
        "num_local_experts": experts,
        "num_experts_per_tok": metadata.number("expert_used_count", 0),
        "shared_intermediate_size": metadata.rows(shared),
        "position_embedding_type": "rope" if metadata.get("rope.scaling.finetuned") else "nope",
        "mamba_n_heads": heads,
        "mamba_d_head": metadata.number("ssm.inner_size") // max(heads, 1),
        "mamba_n_groups": metadata.number("ssm.group_count"),
        "mamba_d_state": metadata.number("ssm.state_size"),
        "mamba_d_conv": metadata.number("ssm.conv_kernel"),
        "mamba_conv_bias": any(name.endswith("ssm_conv1d.bias") for name in metadata.tensors),
        "mamba_proj_bias": any(name.endswith("ssm_in.bias") for name in metadata.tensors),
    }


def _lfm2(metadata: Metadata) -> Json:
    layers = range(metadata.layers)
    is_conv = [f"blk.{layer}.shortconv.conv.weight" in metadata.tensors for layer in layers]
    return {
        "model_type": "lfm2",
        "layer_types": ["conv" if found else "full_attention" for found in is_conv],
        "norm_eps": metadata.real("attention.layer_norm_rms_epsilon"),
        "conv_L_cache": metadata.number("shortconv.l_cache"),
        "conv_bias": any(name.endswith("shortconv.in_proj.bias") for name in metadata.tensors),
        "block_auto_adjust_ff_dim": False,
    }


def _lfm2_moe(metadata: Metadata) -> Json:
    dense = metadata.number("leading_dense_block_count", 0)
    return {
        **_lfm2(metadata),
        **_experts(metadata, dense),
        "model_type": "lfm2_moe",
        "num_dense_layers": dense,
        "norm_topk_prob": True,
        "routed_scaling_factor": metadata.real("expert_weights_scale", 1.0),
        "use_expert_bias": any(name.endswith("exp_probs_b.bias") for name in metadata.tensors),
    }


def _gpt_oss(metadata: Metadata) -> Json:
    scaling = _rope_scaling(metadata)
    return {
        "model_type": "gpt_oss",
        "num_local_experts": metadata.experts,
        "num_experts_per_tok": metadata.number("expert_used_count"),
        "intermediate_size": metadata.rows("blk.0.ffn_gate_exps.weight"),
        "sliding_window": metadata.number("attention.sliding_window"),
        "rope_scaling": scaling and {**scaling, "truncate": False},
        "attention_bias": True,
    }


def _deepseek_moe(metadata: Metadata) -> Json:
    dense = metadata.number("leading_dense_block_count", 0)
    routed = _experts(metadata, dense)
    return {
        **routed,
        "n_routed_experts": routed["num_experts"],
        "n_shared_experts": metadata.number("expert_shared_count", 0),
        "first_k_dense_replace": dense,
        "n_group": metadata.number("expert_group_count", 1),
        "topk_group": metadata.number("expert_group_used_count", 1),
        "norm_topk_prob": bool(metadata.get("expert_weights_norm", False)),
        "routed_scaling_factor": metadata.real("expert_weights_scale", 1.0),
    }


def _glm4_moe(metadata: Metadata) -> Json:
    return {
        **_deepseek_moe(metadata),
        "model_type": "glm4_moe",
        "partial_rotary_factor": _rotary_part(metadata),
        "use_qk_norm": "blk.0.attn_q_norm.weight" in metadata.tensors,
        "attention_bias": "blk.0.attn_q.bias" in metadata.tensors,
        "num_nextn_predict_layers": 0,
    }


def _dots1(metadata: Metadata) -> Json:
    return {**_deepseek_moe(metadata), "model_type": "dots1", "sliding_window": None}


def _ernie4_5_moe(metadata: Metadata) -> Json:
    first = metadata.first_layer_with("ffn_gate_exps.weight")
    routed = _experts(metadata, first)
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
    routed = _experts(metadata)
    return {
        **routed,
        "model_type": "minimax_m2",
        "num_local_experts": routed["num_experts"],
        "intermediate_size": routed["moe_intermediate_size"],
        "rotary_dim": metadata.number("rope.dimension_count"),
    }


def _afmoe(metadata: Metadata) -> Json:
    """llama.cpp always scales the embeddings."""
    dense = metadata.number("leading_dense_block_count", 0)
    return {
        **_experts(metadata, dense),
        "model_type": "afmoe",
        "num_dense_layers": dense,
        "num_shared_experts": metadata.number("expert_shared_count", 1),
        "route_scale": metadata.real("expert_weights_scale", 1.0),
        "sliding_window": metadata.number("attention.sliding_window"),
        "layer_types": _layer_types(metadata, default=4),
        "mup_enabled": True,
    }


def _nemotron_h(metadata: Metadata) -> Json:
    kinds = [_nemotron_layer(metadata, layer) for layer in range(metadata.layers)]
    heads = metadata.number("ssm.time_step_rank")
    found = {
        "model_type": "nemotron_h",
        "layers_block_type": kinds,
        "layer_norm_epsilon": metadata.real("attention.layer_norm_rms_epsilon"),
        "mamba_num_heads": heads,
        "mamba_head_dim": metadata.number("ssm.inner_size") // max(heads, 1),
        "n_groups": metadata.number("ssm.group_count"),
        "ssm_state_size": metadata.number("ssm.state_size"),
        "conv_kernel": metadata.number("ssm.conv_kernel"),
        "use_conv_bias": any(name.endswith("ssm_conv1d.bias") for name in metadata.tensors),
    }
    if "mlp" in kinds:
        found["intermediate_size"] = metadata.rows(f"blk.{kinds.index('mlp')}.ffn_up.weight")
    if "moe" not in kinds:
        return found
    first = kinds.index("moe")
    return found | {
        "n_routed_experts": metadata.experts,
        "num_experts_per_tok": metadata.number("expert_used_count"),
        "moe_intermediate_size": metadata.rows(f"blk.{first}.ffn_up_exps.weight"),
        "moe_shared_expert_intermediate_size": metadata.rows(f"blk.{first}.ffn_up_shexp.weight"),
        "n_group": metadata.number("expert_group_count", 1),
        "topk_group": metadata.number("expert_group_used_count", 1),
        "norm_topk_prob": bool(metadata.get("expert_weights_norm", True)),
        "routed_scaling_factor": metadata.real("expert_weights_scale", 1.0),
        "moe_latent_size": 1 if any("ffn_latent" in name for name in metadata.tensors) else None,
    }


def _nemotron_layer(metadata: Metadata, layer: int) -> str:
    parts = {"ssm_a": "linear_attention", "attn_q.weight": "full_attention", "ffn_gate_inp.weight": "moe"}
    return next((kind for part, kind in parts.items() if f"blk.{layer}.{part}" in metadata.tensors), "mlp")


def _jamba(metadata: Metadata) -> Json:
    hidden, layers = metadata.number("embedding_length"), range(metadata.layers)
    attention = [layer for layer in layers if f"blk.{layer}.attn_q.weight" in metadata.tensors]
    routed = [layer for layer in layers if f"blk.{layer}.ffn_gate_inp.weight" in metadata.tensors]
    return {
        "model_type": "jamba",
        **_periodic("attn_layer", attention, len(layers)),
        **_periodic("expert_layer", routed, len(layers)),
        "num_experts": metadata.experts if routed else 1,
        "num_experts_per_tok": metadata.number("expert_used_count", 0),
        "mamba_expand": metadata.number("ssm.inner_size") // max(hidden, 1),
        "mamba_d_state": metadata.number("ssm.state_size"),
        "mamba_d_conv": metadata.number("ssm.conv_kernel"),
        "mamba_dt_rank": metadata.number("ssm.time_step_rank"),
        "mamba_conv_bias": any(name.endswith("ssm_conv1d.bias") for name in metadata.tensors),
    }


def _periodic(name: str, layers: list[int], count: int) -> Json:
    """The period of layers of a kind, and the first one; a period beyond the last layer for one or none."""
    first = layers[0] if layers else count
    period = layers[1] - first if len(layers) > 1 else count + 1
    return {f"{name}_period": period, f"{name}_offset": first}


def _deepseek2(metadata: Metadata) -> Json:
    rotary, routed = metadata.number("rope.dimension_count"), _deepseek_moe(metadata)
    is_v3 = metadata.get("expert_gating_func", SOFTMAX) == SIGMOID
    key_length = metadata.number("attention.key_length_mla", metadata.number("attention.key_length"))
    return {
        **routed,
        "model_type": "deepseek_v3" if is_v3 else "deepseek_v2",
        "scoring_func": "sigmoid" if is_v3 else "softmax",
        "topk_method": "noaux_tc" if is_v3 else "group_limited_greedy" if routed["n_group"] > 1 else "greedy",
        "q_lora_rank": metadata.number("attention.q_lora_rank", 0) or None,
        "kv_lora_rank": metadata.number("attention.kv_lora_rank"),
        "qk_rope_head_dim": rotary,
        "qk_nope_head_dim": key_length - rotary,
        "v_head_dim": metadata.number("attention.value_length_mla", metadata.number("attention.value_length")),
        "rope_scaling": _deepseek_rope(metadata),
        "num_nextn_predict_layers": 0,
    }


def _deepseek_rope(metadata: Metadata) -> Json | None:
    """YaRN with the magnitude that llama.cpp keeps as a tenth of `mscale_all_dim`, to which `mscale` is equal."""
    scaling, tenth = _rope_scaling(metadata), metadata.real("rope.scaling.yarn_log_multiplier", 0.0)
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
    "qwen3next": _qwen3_next,
    "qwen35moe": _qwen35_moe,
    "olmoe": _olmoe,
    "olmo2": _olmo2,
    "smollm3": _smollm3,
    "phi3": _phi3,
    "glm4": _glm4,
    "gemma3": _gemma3,
    "granite": _granite,
    "granitemoe": _granite_moe,
    "granitehybrid": _granite_hybrid,
    "lfm2": _lfm2,
    "lfm2moe": _lfm2_moe,
    "gpt-oss": _gpt_oss,
    "deepseek2": _deepseek2,
    "glm4moe": _glm4_moe,
    "dots1": _dots1,
    "ernie4_5-moe": _ernie4_5_moe,
    "minimax-m2": _minimax_m2,
    "afmoe": _afmoe,
    "nemotron_h": _nemotron_h,
    "nemotron_h_moe": _nemotron_h,
    "jamba": _jamba,
}
