"""How llama.cpp names and stores the tensors of each architecture.

The parts of every architecture are named alike ("blk.3.attn_q.weight"), experts are stacked, and some tensors are
stored in another order or as a function of what was trained. Each architecture here is a table of names, the functions
that undo such changes, and the tensors that are made of several.

Shapes: E experts, H heads, D hidden width, R latent width.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from model.checkpoints.rules import Concat, Interleaved, PairedHeads, PerHead, RotaryPairs, Transpose

HfConfig = Mapping[str, Any]
Join = Callable[[Sequence[Tensor]], Tensor]  # the tensors of GGUF files -> the family's tensor


def only(tensors: Sequence[Tensor]) -> Tensor:
    (tensor,) = tensors
    return tensor


@dataclass(frozen=True, slots=True)
class Fused:
    """A tensor of the family, without its layer prefix, that is made of several parts of a layer."""

    target: str
    parts: tuple[str, ...]
    join: Join


@dataclass(frozen=True, slots=True)
class Architecture:
    """`names`: parts of a layer to names of the family, with `{expert}` where the family stores experts one by one.

    `joins` change a single tensor, by part. Names without a suffix are given for both weights and biases.
    """

    names: Mapping[str, str]
    joins: Mapping[str, Join] = field(default_factory=dict)
    fused: tuple[Fused, ...] = ()
    layers: str = "model.layers"  # before the number of a layer


_FRAME = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_ATTENTION = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
}  # fmt: skip
_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}


def _feed_forward(theirs: str, names: Sequence[str] = ("gate_proj", "up_proj", "down_proj")) -> dict[str, str]:
    parts = ("ffn_gate", "ffn_up", "ffn_down")
    return {part: f"{theirs}.{name}" for part, name in zip(parts, names, strict=True)}


def _experts(theirs: str, names: Sequence[str] = ("gate_proj", "up_proj", "down_proj")) -> dict[str, str]:
    dense = _feed_forward(theirs + ".{expert}", names)
    return {f"{part}_exps": name for part, name in dense.items()}


def _shared(theirs: str) -> dict[str, str]:
    return {f"{part}_shexp": name for part, name in _feed_forward(theirs).items()}


_LLAMA = _FRAME | _NORMS | _ATTENTION | _feed_forward("mlp")
_QWEN_MOE = {
    "ffn_gate_inp": "mlp.gate",
    **_experts("mlp.experts"),
    **_shared("mlp.shared_expert"),
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
}


def _pairs_to_halves(hf: HfConfig) -> dict[str, Join]:
    """llama.cpp stores rotary rows of queries and keys of Llama in pairs, transformers in halves."""
    heads, kv_heads, width = hf["num_attention_heads"], hf["num_key_value_heads"], hf["head_dim"]
    return {
        "attn_q": RotaryPairs((PairedHeads(heads, 0, width),)).join,
        "attn_k": RotaryPairs((PairedHeads(kv_heads, 0, width),)).join,
    }


def _llama(hf: HfConfig) -> Architecture:
    names = _LLAMA
    if hf["model_type"] == "mixtral":
        experts = _experts("block_sparse_moe.experts", ("w1", "w3", "w2"))
        names = _LLAMA | {"ffn_gate_inp": "block_sparse_moe.gate"} | experts
    return Architecture(names, _pairs_to_halves(hf))


def _qwen(hf: HfConfig) -> Architecture:
    def as_matrix(tensors: Sequence[Tensor]) -> Tensor:
        return only(tensors).reshape(1, -1)

    return Architecture(_LLAMA | _QWEN_MOE, {"ffn_gate_inp_shexp": as_matrix})


def _granite(hf: HfConfig) -> Architecture:
    moe = "block_sparse_moe"
    names = {
        **_LLAMA,
        "ffn_gate_inp": f"{moe}.router.layer",
        "ffn_down_exps": f"{moe}.output_linear",
        "ffn_down_shexp": "shared_mlp.output_linear",
    }
    fused = (
        Fused(f"{moe}.input_linear.weight", ("ffn_gate_exps.weight", "ffn_up_exps.weight"), Concat((), 1).join),
        Fused("shared_mlp.input_linear.weight", ("ffn_gate_shexp.weight", "ffn_up_shexp.weight"), Concat(()).join),
    )
    return Architecture(names, _pairs_to_halves(hf), fused)


_MAMBA2 = {
    "ssm_in": "mamba.in_proj", "ssm_conv1d": "mamba.conv1d", "ssm_a": "mamba.A_log", "ssm_d": "mamba.D",
    "ssm_dt.bias": "mamba.dt_bias", "ssm_norm": "mamba.norm", "ssm_out": "mamba.out_proj",
}  # fmt: skip


def _granite_hybrid(hf: HfConfig) -> Architecture:
    granite, own = _granite(hf), _MAMBA2 | {"ffn_down": "shared_mlp.output_linear"}
    dense = Fused("shared_mlp.input_linear.weight", ("ffn_gate.weight", "ffn_up.weight"), Concat(()).join)
    return Architecture({**granite.names, **own}, {**granite.joins, **_MAMBA2_JOINS}, (*granite.fused, dense))


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


def _lfm2(hf: HfConfig) -> Architecture:
    feed_forward = ("w1", "w3", "w2")
    names = {
        **_FRAME,
        **_ATTENTION,
        **_feed_forward("feed_forward", feed_forward),
        **_experts("feed_forward.experts", feed_forward),
        "token_embd_norm": "model.embedding_norm",
        "attn_norm": "operator_norm", "ffn_norm": "ffn_norm",
        "attn_q_norm": "self_attn.q_layernorm", "attn_k_norm": "self_attn.k_layernorm",
        "attn_output": "self_attn.out_proj",
        "shortconv.conv": "conv.conv", "shortconv.in_proj": "conv.in_proj", "shortconv.out_proj": "conv.out_proj",
        "ffn_gate_inp": "feed_forward.gate", "exp_probs_b.bias": "feed_forward.expert_bias",
    }  # fmt: skip
    return Architecture(names, {"shortconv.conv.weight": _with_channel_axis})


def _olmo2(hf: HfConfig) -> Architecture:
    norms = {"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
    return Architecture(_FRAME | _ATTENTION | norms | _feed_forward("mlp"))


def _phi3(hf: HfConfig) -> Architecture:
    fused = {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj", "ffn_down": "mlp.down_proj"}
    return Architecture(_FRAME | _NORMS | _ATTENTION | fused)


def _glm4(hf: HfConfig) -> Architecture:
    norms = {
        "attn_norm": "input_layernorm", "post_attention_norm": "post_self_attn_layernorm",
        "ffn_norm": "post_attention_layernorm", "post_ffw_norm": "post_mlp_layernorm",
    }  # fmt: skip
    return Architecture(_FRAME | _ATTENTION | norms | {"ffn_up": "mlp.gate_up_proj", "ffn_down": "mlp.down_proj"})


def _gemma3(hf: HfConfig) -> Architecture:
    norms = {
        "attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm", "post_ffw_norm": "post_feedforward_layernorm",
    }  # fmt: skip
    with_offset = ("output_norm", "attn_q_norm", "attn_k_norm", *norms)
    return Architecture(_FRAME | _ATTENTION | norms | _feed_forward("mlp"), _norm_offset(with_offset))


def _gpt_oss(hf: HfConfig) -> Architecture:
    names = {
        **_FRAME,
        **_ATTENTION,
        "attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm",
        "attn_sinks.weight": "self_attn.sinks", "ffn_gate_inp": "mlp.router",
        "ffn_down_exps.weight": "mlp.experts.down_proj", "ffn_down_exps.bias": "mlp.experts.down_proj_bias",
    }  # fmt: skip

    def interleaved_columns(tensors: Sequence[Tensor]) -> Tensor:
        (gate_up,) = Interleaved().split(Concat((), 1).join(tensors))
        return gate_up.mT

    def interleaved(tensors: Sequence[Tensor]) -> Tensor:
        return Interleaved(dim=-1).split(Concat((), 1).join(tensors))[0]

    fused = (
        Fused("mlp.experts.gate_up_proj", ("ffn_gate_exps.weight", "ffn_up_exps.weight"), interleaved_columns),
        Fused("mlp.experts.gate_up_proj_bias", ("ffn_gate_exps.bias", "ffn_up_exps.bias"), interleaved),
    )
    return Architecture(names, {"ffn_down_exps.weight": Transpose().join}, fused)


_DEEPSEEK_MOE = {
    "ffn_gate_inp": "mlp.gate", "exp_probs_b.bias": "mlp.gate.e_score_correction_bias",
    **_experts("mlp.experts"), **_shared("mlp.shared_experts"),
}  # fmt: skip


def _dots1(hf: HfConfig) -> Architecture:
    return Architecture(_LLAMA | _DEEPSEEK_MOE)


def _glm4_moe(hf: HfConfig) -> Architecture:
    return Architecture(_LLAMA | _DEEPSEEK_MOE | {"post_attention_norm": "post_attention_layernorm"})


def _ernie4_5_moe(hf: HfConfig) -> Architecture:
    bias = {"exp_probs_b.bias": "mlp.moe_statics.e_score_correction_bias"}
    return Architecture(_LLAMA | _DEEPSEEK_MOE | bias, {"exp_probs_b.bias": _as_row})


def _as_row(tensors: Sequence[Tensor]) -> Tensor:
    return only(tensors).reshape(1, -1)


def _minimax_m2(hf: HfConfig) -> Architecture:
    moe = "block_sparse_moe"
    router = {"ffn_gate_inp": f"{moe}.gate", "exp_probs_b.bias": f"{moe}.e_score_correction_bias"}
    return Architecture(_LLAMA | router | _experts(f"{moe}.experts", ("w1", "w3", "w2")))


def _afmoe(hf: HfConfig) -> Architecture:
    norms = {
        "attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_mlp_layernorm", "post_ffw_norm": "post_mlp_layernorm",
    }  # fmt: skip
    own = {
        "attn_gate": "self_attn.gate_proj", "ffn_gate_inp": "mlp.router.gate", "exp_probs_b.bias": "mlp.expert_bias",
    }  # fmt: skip
    return Architecture(_LLAMA | _DEEPSEEK_MOE | norms | own)


def _nemotron_h(hf: HfConfig) -> Architecture:
    """Every layer is a mixer or a feed-forward."""
    experts = {part: name for part, name in _experts("mixer.experts").items() if part != "ffn_gate_exps"}
    names = {
        "token_embd": "backbone.embeddings", "output_norm": "backbone.norm_f", "output": "lm_head",
        "attn_norm": "norm", "ffn_up": "mixer.up_proj", "ffn_down": "mixer.down_proj",
        **{part: name.replace("self_attn", "mixer") for part, name in _ATTENTION.items()},
        **{part: name.replace("mamba", "mixer") for part, name in _MAMBA2.items()},
        **experts, **_shared("mixer.shared_experts"),
        "ffn_gate_inp": "mixer.gate", "exp_probs_b.bias": "mixer.gate.e_score_correction_bias",
    }  # fmt: skip
    return Architecture(names, _MAMBA2_JOINS, layers="backbone.layers")


def _jamba(hf: HfConfig) -> Architecture:
    mamba = {
        "ssm_in": "in_proj", "ssm_conv1d": "conv1d", "ssm_x": "x_proj", "ssm_dt": "dt_proj", "ssm_a": "A_log",
        "ssm_d": "D", "ssm_out": "out_proj", "ssm_dt_norm": "dt_layernorm", "ssm_b_norm": "b_layernorm",
        "ssm_c_norm": "c_layernorm",
    }  # fmt: skip
    names = {
        **_LLAMA, **_feed_forward("feed_forward"), **_experts("feed_forward.experts"),
        **{part: f"mamba.{name}" for part, name in mamba.items()},
        "output_norm": "model.final_layernorm", "ffn_norm": "pre_ff_layernorm",
        "ffn_gate_inp": "feed_forward.router",
    }  # fmt: skip

    def log(tensors: Sequence[Tensor]) -> Tensor:
        return only(tensors).float().neg().log()

    return Architecture(names, {"ssm_conv1d.weight": _with_channel_axis, "ssm_a": log})


def _deepseek2(hf: HfConfig) -> Architecture:
    attention = {
        f"attn_{part}": f"self_attn.{name}"
        for part, name in {
            "q": "q_proj", "q_a": "q_a_proj", "q_a_norm": "q_a_layernorm", "q_b": "q_b_proj",
            "kv_a_mqa": "kv_a_proj_with_mqa", "kv_a_norm": "kv_a_layernorm", "kv_b": "kv_b_proj", "output": "o_proj",
        }.items()
    }  # fmt: skip
    dense = _FRAME | _NORMS | _feed_forward("mlp")
    kv_b = Fused("self_attn.kv_b_proj.weight", ("attn_k_b.weight", "attn_v_b.weight"), _keys_and_values)
    return Architecture(dense | attention | _DEEPSEEK_MOE, fused=(kv_b,))


def _keys_and_values(tensors: Sequence[Tensor]) -> Tensor:
    """The up-projection of keys [H, R, nope] and that of values [H, value, R], as one matrix by head."""
    keys, values = tensors
    return Concat((), 1).join([keys.mT, values]).flatten(0, 1)


def _norm_offset(parts: Iterable[str]) -> dict[str, Join]:
    """llama.cpp stores 1 + weight for norms that multiply by that."""
    return {part: lambda tensors: only(tensors) - 1 for part in parts}


_OFFSET_NORMS = ("output_norm", "attn_norm", "post_attention_norm", "attn_q_norm", "attn_k_norm")
_DELTA_NET = {
    "post_attention_norm": "post_attention_layernorm",
    "ssm_conv1d": "linear_attn.conv1d", "ssm_a": "linear_attn.A_log", "ssm_dt.bias": "linear_attn.dt_bias",
    "ssm_norm": "linear_attn.norm", "ssm_out": "linear_attn.out_proj",
}  # fmt: skip


def _qwen3_next(hf: HfConfig) -> Architecture:
    qwen, heads = _qwen(hf), hf["linear_num_key_heads"]
    values = hf["linear_num_value_heads"] // heads * hf["linear_value_head_dim"]
    by_head = PerHead(((heads, (hf["linear_key_head_dim"],) * 2 + (values,) * 2),))

    def grouped_by_head(tensors: Sequence[Tensor]) -> Tensor:
        return by_head.split(Concat(()).join(tensors))[0]

    names = {**qwen.names, **_DELTA_NET, "ssm_ba": "linear_attn.in_proj_ba", "ssm_in": "linear_attn.in_proj_qkvz"}
    joins = {**qwen.joins, **_norm_offset(_OFFSET_NORMS), "ssm_conv1d": _with_channel_axis, "ssm_a": _log_of_decay}
    qkvz = Fused("linear_attn.in_proj_qkvz.weight", ("attn_qkv.weight", "attn_gate.weight"), grouped_by_head)
    return Architecture(names, joins, (qkvz,))


def _qwen35_moe(hf: HfConfig) -> Architecture:
    """Value heads are stored the first one of every key head first, then the second ones, and so on."""
    qwen = _qwen(hf)
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
        **qwen.names, **_DELTA_NET,
        "attn_qkv": "linear_attn.in_proj_qkv", "attn_gate": "linear_attn.in_proj_z",
        "ssm_beta": "linear_attn.in_proj_b", "ssm_alpha": "linear_attn.in_proj_a",
    }  # fmt: skip
    joins: dict[str, Join] = {
        **qwen.joins, **_norm_offset(_OFFSET_NORMS),
        "attn_qkv": keys_then_values, "attn_gate": values, "ssm_beta": scalars, "ssm_alpha": scalars,
        "ssm_conv1d": lambda tensors: _with_channel_axis([keys_then_values(tensors)]),
        "ssm_a": lambda tensors: _log_of_decay([scalars(tensors)]), "ssm_dt.bias": scalars,
        "ssm_out": lambda tensors: values([only(tensors).T]).T,
    }  # fmt: skip
    return Architecture(names, joins)


ARCHITECTURES: dict[str, Callable[[HfConfig], Architecture]] = {
    "llama": _llama,
    "qwen2": _qwen,
    "qwen2moe": _qwen,
    "qwen3": _qwen,
    "qwen3moe": _qwen,
    "qwen3next": _qwen3_next,
    "qwen35moe": _qwen35_moe,
    "olmoe": _qwen,
    "olmo2": _olmo2,
    "smollm3": _llama,
    "phi3": _phi3,
    "glm4": _glm4,
    "gemma3": _gemma3,
    "granite": _granite,
    "granitemoe": _granite,
    "granitehybrid": _granite_hybrid,
    "lfm2": _lfm2,
    "lfm2moe": _lfm2,
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
