"""Numbers of a config.json that no network can have: fewer than one, or fewer than none."""

from collections.abc import Mapping
from typing import Any

from model.checkpoints.reader import CheckpointError

POSITIVE = frozenset({
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim",
    "max_position_embeddings", "model_max_length",
    "mamba_n_heads", "mamba_num_heads", "mamba_d_head", "mamba_head_dim", "mamba_n_groups", "n_groups",
    "mamba_d_state", "ssm_state_size", "mamba_d_conv", "mamba_expand", "mamba_dt_rank", "conv_kernel", "conv_L_cache",
    "linear_num_heads", "linear_num_key_heads", "linear_num_value_heads",
    "linear_head_dim", "linear_key_head_dim", "linear_value_head_dim", "linear_conv_kernel_dim",
    "num_heads", "short_conv_kernel_size",
    "attn_layer_period", "expert_layer_period", "moe_layer_interval", "decoder_sparse_step", "full_attention_interval",
    "global_attn_every_n_layers", "sliding_window_pattern", "no_rope_layer_interval", "block_multiple_of",
    "query_pre_attn_scalar", "logits_scaling", "factor",
})  # fmt: skip
# 0 may stand for "none", for a default, or for a part of the family that this network does not have
NOT_NEGATIVE = frozenset({
    "intermediate_size", "moe_intermediate_size", "block_ff_dim",
    "shared_intermediate_size", "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size",
    "num_key_value_heads", "rotary_dim", "sliding_window",
    "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim",
    "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts",
    "num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k",
    "num_shared_experts", "n_shared_experts", "moe_num_shared_experts",
    "n_group", "num_expert_group", "topk_group",
    "num_dense_layers", "first_k_dense_replace", "attn_layer_offset", "expert_layer_offset",
    "num_nextn_predict_layers", "original_max_position_embeddings", "rope_theta", "beta_fast", "beta_slow",
})  # fmt: skip


def check_counts(hf: Mapping[str, Any]) -> None:
    """CheckpointError, naming the key, for a number that is too small, in parts of the config too."""
    for key, value in hf.items():
        if isinstance(value, Mapping) and key != "vision_config":  # of which nothing is built
            check_counts(value)
        if not isinstance(value, int | float):
            continue
        if key in POSITIVE and not value > 0:
            raise CheckpointError(f"config.json has {key} {value}: it must be positive")
        if key in NOT_NEGATIVE and not value >= 0:
            raise CheckpointError(f"config.json has {key} {value}: it must not be negative")
