"""The metadata of architectures with recurrent layers, and of their relatives, as a config.json."""

from model.checkpoints.gguf.config_parts import Json, deepseek_moe, experts, latent_attention, only_experts
from model.checkpoints.gguf.metadata import Metadata


def _delta_net(metadata: Metadata) -> Json:
    value_heads, layers = metadata.number("ssm.time_step_rank"), metadata.layers
    head_dim = metadata.number("attention.key_length")
    recurrent = [f"blk.{layer}.ssm_a" in metadata.tensors for layer in range(layers)]
    return {
        **experts(metadata),
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


def qwen3_next(metadata: Metadata) -> Json:
    return {"model_type": "qwen3_next", **_delta_net(metadata)}


def qwen35_moe(metadata: Metadata) -> Json:
    return {"model_type": "qwen3_5_moe_text", **_delta_net(metadata)}


def granite(metadata: Metadata) -> Json:
    return {
        "model_type": "granite",
        "attention_multiplier": metadata.real("attention.scale", 1.0),
        "embedding_multiplier": metadata.real("embedding_scale", 1.0),
        "residual_multiplier": metadata.real("residual_scale", 1.0),
        "logits_scaling": metadata.real("logit_scale", 1.0),
    }


def granite_moe(metadata: Metadata) -> Json:
    shared = metadata.get("expert_shared_feed_forward_length")
    return {
        **granite(metadata),
        **only_experts(metadata),
        "model_type": "granitemoeshared" if shared else "granitemoe",
        "shared_intermediate_size": shared,
    }


def granite_hybrid(metadata: Metadata) -> Json:
    heads, experts = metadata.number("ssm.time_step_rank"), (metadata.experts if metadata.get("expert_count") else 0)
    shared = "blk.0.ffn_gate_shexp.weight" if experts else "blk.0.ffn_gate.weight"
    is_mamba = [f"blk.{layer}.ssm_a" in metadata.tensors for layer in range(metadata.layers)]
    moe = {"intermediate_size": metadata.rows("blk.0.ffn_gate_exps.weight")} if experts else {}
    return {
        **granite(metadata),
        **moe,
        "model_type": "granitemoehybrid",
        "layer_types": ["mamba" if found else "attention" for found in is_mamba],
        "num_local_experts": experts,
        "num_experts_per_tok": metadata.number("expert_used_count", 0),
        "shared_intermediate_size": metadata.rows(shared),
        "position_embedding_type": "rope" if metadata.get("rope.scaling.finetuned", True) else "nope",
        "mamba_n_heads": heads,
        "mamba_d_head": metadata.number("ssm.inner_size") // max(heads, 1),
        "mamba_n_groups": metadata.number("ssm.group_count"),
        "mamba_d_state": metadata.number("ssm.state_size"),
        "mamba_d_conv": metadata.number("ssm.conv_kernel"),
        "mamba_conv_bias": any(name.endswith("ssm_conv1d.bias") for name in metadata.tensors),
        "mamba_proj_bias": any(name.endswith("ssm_in.bias") for name in metadata.tensors),
    }


def lfm2(metadata: Metadata) -> Json:
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


def lfm2_moe(metadata: Metadata) -> Json:
    dense = metadata.number("leading_dense_block_count", 0)
    return {
        **lfm2(metadata),
        **experts(metadata, dense),
        "model_type": "lfm2_moe",
        "num_dense_layers": dense,
        "norm_topk_prob": True,
        "routed_scaling_factor": metadata.real("expert_weights_scale", 1.0),
        "use_expert_bias": any(name.endswith("exp_probs_b.bias") for name in metadata.tensors),
    }


def nemotron_h(metadata: Metadata) -> Json:
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


def jamba(metadata: Metadata) -> Json:
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


def kimi_linear(metadata: Metadata) -> Json:
    """llama.cpp always normalizes the weights of the chosen experts, and has no groups of them."""
    routed = deepseek_moe(metadata)
    is_delta = [f"blk.{layer}.ssm_a" in metadata.tensors for layer in range(metadata.layers)]
    return {
        **routed,
        **latent_attention(metadata),
        "model_type": "kimi_linear",
        "layer_types": ["linear_attention" if found else "full_attention" for found in is_delta],
        "linear_num_heads": metadata.number("attention.head_count"),
        "linear_head_dim": metadata.number("kda.head_dim"),
        "linear_conv_kernel_dim": metadata.number("ssm.conv_kernel"),
        "num_experts_per_token": routed["num_experts_per_tok"],
        "num_shared_experts": routed["n_shared_experts"],
        "moe_renormalize": True,
    }


def _periodic(name: str, layers: list[int], count: int) -> Json:
    """The period of layers of a kind, and the first one; a period beyond the last layer for one or none."""
    first = layers[0] if layers else count
    period = layers[1] - first if len(layers) > 1 else count + 1
    return {f"{name}_period": period, f"{name}_offset": first}
