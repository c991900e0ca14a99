"""The tensors of architectures with recurrent layers, and of their relatives."""

from collections.abc import Sequence

from torch import Tensor

from model.checkpoints.gguf.architecture import (
    ATTENTION,
    FRAME,
    KEYS_AND_VALUES,
    LATENT_ATTENTION,
    LLAMA,
    Architecture,
    Fused,
    HfConfig,
    Join,
    experts,
    feed_forward,
    norm_offset,
    only,
    pairs_to_halves,
    qwen,
    shared,
)
from model.checkpoints.rules import Concat, PerHead


def granite(hf: HfConfig) -> Architecture:
    moe = "block_sparse_moe"
    names = {
        **LLAMA,
        "ffn_gate_inp": f"{moe}.router.layer",
        "ffn_down_exps": f"{moe}.output_linear",
        "ffn_down_shexp": "shared_mlp.output_linear",
    }
    fused = (
        Fused(f"{moe}.input_linear.weight", ("ffn_gate_exps.weight", "ffn_up_exps.weight"), Concat((), 1).join),
        Fused("shared_mlp.input_linear.weight", ("ffn_gate_shexp.weight", "ffn_up_shexp.weight"), Concat(()).join),
    )
    return Architecture(names, pairs_to_halves(hf), fused)


_MAMBA2 = {
    "ssm_in": "mamba.in_proj", "ssm_conv1d": "mamba.conv1d", "ssm_a": "mamba.A_log", "ssm_d": "mamba.D",
    "ssm_dt.bias": "mamba.dt_bias", "ssm_norm": "mamba.norm", "ssm_out": "mamba.out_proj",
}  # fmt: skip


def granite_hybrid(hf: HfConfig) -> Architecture:
    base, own = granite(hf), _MAMBA2 | {"ffn_down": "shared_mlp.output_linear"}
    dense = Fused("shared_mlp.input_linear.weight", ("ffn_gate.weight", "ffn_up.weight"), Concat(()).join)
    return Architecture({**base.names, **own}, {**base.joins, **_MAMBA2_JOINS}, (*base.fused, dense))


def _with_channel_axis(tensors: Sequence[Tensor]) -> Tensor:
    """A depthwise convolution [channels, taps], which transformers stores with an axis for its input channel."""
    return only(tensors).unsqueeze(1)


def _log_of_decay(tensors: Sequence[Tensor]) -> Tensor:
    """llama.cpp stores -exp(A_log)."""
    return only(tensors).float().neg().log().flatten()


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return only(tensors).flatten()


_MAMBA2_JOINS: dict[str, Join] = {
    "ssm_conv1d.weight": _with_channel_axis, "ssm_a": _log_of_decay, "ssm_d": _flat, "ssm_norm": _flat,
}  # fmt: skip


def lfm2(hf: HfConfig) -> Architecture:
    matrices = ("w1", "w3", "w2")
    names = {
        **FRAME,
        **ATTENTION,
        **feed_forward("feed_forward", matrices),
        **experts("feed_forward.experts", matrices),
        "token_embd_norm": "model.embedding_norm",
        "attn_norm": "operator_norm", "ffn_norm": "ffn_norm",
        "attn_q_norm": "self_attn.q_layernorm", "attn_k_norm": "self_attn.k_layernorm",
        "attn_output": "self_attn.out_proj",
        "shortconv.conv": "conv.conv", "shortconv.in_proj": "conv.in_proj", "shortconv.out_proj": "conv.out_proj",
        "ffn_gate_inp": "feed_forward.gate", "exp_probs_b.bias": "feed_forward.expert_bias",
    }  # fmt: skip
    return Architecture(names, {"shortconv.conv.weight": _with_channel_axis})


def nemotron_h(hf: HfConfig) -> Architecture:
    """Every layer is a mixer or a feed-forward."""
    without_gate = {part: name for part, name in experts("mixer.experts").items() if part != "ffn_gate_exps"}
    names = {
        "token_embd": "backbone.embeddings", "output_norm": "backbone.norm_f", "output": "lm_head",
        "attn_norm": "norm", "ffn_up": "mixer.up_proj", "ffn_down": "mixer.down_proj",
        **{part: name.replace("self_attn", "mixer") for part, name in ATTENTION.items()},
        **{part: name.replace("mamba", "mixer") for part, name in _MAMBA2.items()},
        **without_gate, **shared("mixer.shared_experts"),
        "ffn_gate_inp": "mixer.gate", "exp_probs_b.bias": "mixer.gate.e_score_correction_bias",
    }  # fmt: skip
    return Architecture(names, _MAMBA2_JOINS, layers="backbone.layers")


def jamba(hf: HfConfig) -> Architecture:
    mamba = {
        "ssm_in": "in_proj", "ssm_conv1d": "conv1d", "ssm_x": "x_proj", "ssm_dt": "dt_proj", "ssm_a": "A_log",
        "ssm_d": "D", "ssm_out": "out_proj", "ssm_dt_norm": "dt_layernorm", "ssm_b_norm": "b_layernorm",
        "ssm_c_norm": "c_layernorm",
    }  # fmt: skip
    names = {
        **LLAMA, **feed_forward("feed_forward"), **experts("feed_forward.experts"),
        **{part: f"mamba.{name}" for part, name in mamba.items()},
        "output_norm": "model.final_layernorm", "ffn_norm": "pre_ff_layernorm",
        "ffn_gate_inp": "feed_forward.router",
    }  # fmt: skip

    def log(tensors: Sequence[Tensor]) -> Tensor:
        return only(tensors).float().neg().log()

    return Architecture(names, {"ssm_conv1d.weight": _with_channel_axis, "ssm_a": log})


def kimi_linear(hf: HfConfig) -> Architecture:
    moe, attention = "block_sparse_moe", "self_attn"
    delta = {
        "ssm_conv1d_q": "q_conv1d", "ssm_conv1d_k": "k_conv1d", "ssm_conv1d_v": "v_conv1d", "ssm_f_a": "f_a_proj",
        "ssm_f_b": "f_b_proj", "ssm_beta": "b_proj", "ssm_g_a": "g_a_proj", "ssm_g_b": "g_b_proj",
        "ssm_norm": "o_norm", "ssm_a": "A_log", "ssm_dt.bias": "dt_bias",
    }  # fmt: skip
    names = {
        **LLAMA, **LATENT_ATTENTION, **{part: f"{attention}.{name}" for part, name in delta.items()},
        "ffn_gate_inp": f"{moe}.gate", "exp_probs_b.bias": f"{moe}.gate.e_score_correction_bias",
        **experts(f"{moe}.experts", ("w1", "w3", "w2")), **shared(f"{moe}.shared_experts"),
    }  # fmt: skip

    def channels(tensors: Sequence[Tensor]) -> Tensor:
        """A convolution [1, channels, 1, taps], or without its axes of one."""
        return _with_channel_axis([only(tensors).squeeze()])

    def log(tensors: Sequence[Tensor]) -> Tensor:
        return _log_of_decay(tensors).reshape(1, 1, -1, 1)

    joins: dict[str, Join] = {f"ssm_conv1d_{name}.weight": channels for name in "qkv"}
    return Architecture(names, {**joins, "ssm_a": log}, (KEYS_AND_VALUES,))


_OFFSET_NORMS = ("output_norm", "attn_norm", "post_attention_norm", "attn_q_norm", "attn_k_norm")
_DELTA_NET = {
    "post_attention_norm": "post_attention_layernorm",
    "ssm_conv1d": "linear_attn.conv1d", "ssm_a": "linear_attn.A_log", "ssm_dt.bias": "linear_attn.dt_bias",
    "ssm_norm": "linear_attn.norm", "ssm_out": "linear_attn.out_proj",
}  # fmt: skip


def qwen3_next(hf: HfConfig) -> Architecture:
    base, heads = qwen(hf), hf["linear_num_key_heads"]
    values = hf["linear_num_value_heads"] // heads * hf["linear_value_head_dim"]
    by_head = PerHead(((heads, (hf["linear_key_head_dim"],) * 2 + (values,) * 2),))

    def grouped_by_head(tensors: Sequence[Tensor]) -> Tensor:
        return by_head.split(Concat(()).join(tensors))[0]

    names = {**base.names, **_DELTA_NET, "ssm_ba": "linear_attn.in_proj_ba", "ssm_in": "linear_attn.in_proj_qkvz"}
    joins = {**base.joins, **norm_offset(_OFFSET_NORMS), "ssm_conv1d": _with_channel_axis, "ssm_a": _log_of_decay}
    qkvz = Fused("linear_attn.in_proj_qkvz.weight", ("attn_qkv.weight", "attn_gate.weight"), grouped_by_head)
    return Architecture(names, joins, (qkvz,))


def qwen35_moe(hf: HfConfig) -> Architecture:
    """Value heads are stored the first one of every key head first, then the second ones, and so on."""
    base = qwen(hf)
    key_heads, value_heads, width = (
        hf["linear_num_key_heads"], hf["linear_num_value_heads"], hf["linear_value_head_dim"],
    )  # fmt: skip
    keys = 2 * key_heads * hf["linear_key_head_dim"]

    def by_key_head(rows: Tensor, of_head: int) -> Tensor:
        return rows.unflatten(0, (value_heads // key_heads, key_heads, of_head)).transpose(0, 1).flatten(0, 2)

    def values(tensors: Sequence[Tensor]) -> Tensor:
        return by_key_head(only(tensors), width)

    def scalars(tensors: Sequence[Tensor]) -> Tensor:
        return by_key_head(only(tensors), 1)

    def keys_then_values(tensors: Sequence[Tensor]) -> Tensor:
        tensor = only(tensors)
        return Concat(()).join([tensor[:keys], by_key_head(tensor[keys:], width)])

    names = {
        **base.names, **_DELTA_NET,
        "attn_qkv": "linear_attn.in_proj_qkv", "attn_gate": "linear_attn.in_proj_z",
        "ssm_beta": "linear_attn.in_proj_b", "ssm_alpha": "linear_attn.in_proj_a",
    }  # fmt: skip
    joins: dict[str, Join] = {
        **base.joins, **norm_offset(_OFFSET_NORMS),
        "attn_qkv": keys_then_values, "attn_gate": values, "ssm_beta": scalars, "ssm_alpha": scalars,
        "ssm_conv1d": lambda tensors: _with_channel_axis([keys_then_values(tensors)]),
        "ssm_a": lambda tensors: _log_of_decay([scalars(tensors)]), "ssm_dt.bias": scalars,
        "ssm_out": lambda tensors: values([only(tensors).T]).T,
    }  # fmt: skip
    return Architecture(names, joins)
