"""What the metadata of several architectures says alike, as parts of a config.json."""

from typing import Any

from model.checkpoints.gguf.metadata import Metadata
from model.checkpoints.reader import CheckpointError

Json = dict[str, Any]
YARN = {"attention_factor": "yarn_attn_factor", "beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow"}


def rope_scaling(metadata: Metadata) -> Json | None:
    if "rope_freqs.weight" in metadata.tensors:
        return {"rope_type": "frequency_factors", "factors": metadata.read("rope_freqs.weight")}
    # older files have no type, or the factor under its older name
    kind = metadata.get("rope.scaling.type", "linear")
    factor = metadata.real("rope.scaling.factor", 0.0) or metadata.real("rope.scale_linear", 0.0)
    if kind == "none" or (kind == "linear" and not factor):
        return None
    if kind not in ("linear", "yarn"):
        raise CheckpointError(f"{metadata.name} has the rope scaling {kind!r}: linear and yarn are known")
    scaling: Json = {"rope_type": kind, "factor": factor or metadata.real("rope.scaling.factor")}
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = metadata.number("rope.scaling.original_context_length")
        for ours, theirs in YARN.items():
            if metadata.get(f"rope.scaling.{theirs}") is not None:
                scaling[ours] = metadata.real(f"rope.scaling.{theirs}")
    return scaling


def experts(metadata: Metadata, first: int = 0) -> Json:
    """`first`: the first layer that has experts."""
    return {
        "num_experts": metadata.experts,
        "num_experts_per_tok": metadata.number("expert_used_count"),
        "moe_intermediate_size": metadata.rows(f"blk.{first}.ffn_gate_exps.weight"),
    }


def only_experts(metadata: Metadata) -> Json:
    """`experts` of a network whose layers all have them, by the names that Mixtral and others give them too."""
    routed = experts(metadata)
    return {
        **routed,
        "num_local_experts": routed["num_experts"],
        "intermediate_size": routed["moe_intermediate_size"],
    }


def layer_types(metadata: Metadata, default: int) -> list[str]:
    """Which layers have windows: all but every `default`-th where the metadata does not say it."""
    found = metadata.get("attention.sliding_window_pattern")
    if not isinstance(found, list):
        period = metadata.number("attention.sliding_window_pattern", 0) or default
        found = [(index + 1) % period != 0 for index in range(metadata.layers)]
    return ["sliding_attention" if slides else "full_attention" for slides in found]


def rotary_part(metadata: Metadata) -> float:
    """The part of each head that has rotary positions."""
    heads = max(metadata.number("attention.head_count"), 1)
    head_dim = metadata.number("attention.key_length", 0) or metadata.number("embedding_length") // heads
    return metadata.number("rope.dimension_count", head_dim) / max(head_dim, 1)


def deepseek_moe(metadata: Metadata) -> Json:
    dense = metadata.number("leading_dense_block_count", 0)
    routed = experts(metadata, dense)
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


def latent_attention(metadata: Metadata) -> Json:
    """Files without the lengths of MLA have whole keys and values."""
    rotary = metadata.number("rope.dimension_count")
    lengths = {}
    for part in ("key_length", "value_length"):
        is_split = metadata.get(f"attention.{part}_mla") is not None
        lengths[part] = metadata.number(f"attention.{part}{'_mla' if is_split else ''}")
    return {
        "q_lora_rank": metadata.number("attention.q_lora_rank", 0) or None,
        "kv_lora_rank": metadata.number("attention.kv_lora_rank"),
        "qk_rope_head_dim": rotary,
        "qk_nope_head_dim": lengths["key_length"] - rotary,
        "v_head_dim": lengths["value_length"],
    }
