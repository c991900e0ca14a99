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

from model.checkpoints.rules import Concat, PairedHeads, RotaryPairs

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


FRAME = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
ATTENTION = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
}  # fmt: skip
NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}


def feed_forward(theirs: str, names: Sequence[str] = ("gate_proj", "up_proj", "down_proj")) -> dict[str, str]:
    parts = ("ffn_gate", "ffn_up", "ffn_down")
    return {part: f"{theirs}.{name}" for part, name in zip(parts, names, strict=True)}


def experts(theirs: str, names: Sequence[str] = ("gate_proj", "up_proj", "down_proj")) -> dict[str, str]:
    dense = feed_forward(theirs + ".{expert}", names)
    return {f"{part}_exps": name for part, name in dense.items()}


def shared(theirs: str) -> dict[str, str]:
    return {f"{part}_shexp": name for part, name in feed_forward(theirs).items()}


LATENT_ATTENTION = {
    f"attn_{part}": f"self_attn.{name}"
    for part, name in {
        "q": "q_proj", "q_a": "q_a_proj", "q_a_norm": "q_a_layernorm", "q_b": "q_b_proj",
        "kv_a_mqa": "kv_a_proj_with_mqa", "kv_a_norm": "kv_a_layernorm", "kv_b": "kv_b_proj", "output": "o_proj",
    }.items()
}  # fmt: skip


def _keys_and_values(tensors: Sequence[Tensor]) -> Tensor:
    """The up-projection of keys [H, R, nope] and that of values [H, value, R], as one matrix by head."""
    keys, values = tensors
    return Concat((), 1).join([keys.mT, values]).flatten(0, 1)


KEYS_AND_VALUES = Fused("self_attn.kv_b_proj.weight", ("attn_k_b.weight", "attn_v_b.weight"), _keys_and_values)
LLAMA = FRAME | NORMS | ATTENTION | feed_forward("mlp")
QWEN_MOE = {
    "ffn_gate_inp": "mlp.gate",
    **experts("mlp.experts"),
    **shared("mlp.shared_expert"),
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
}


def pairs_to_halves(hf: HfConfig) -> dict[str, Join]:
    """llama.cpp stores rotary rows of queries and keys of Llama in pairs, transformers in halves."""
    heads, kv_heads, width = hf["num_attention_heads"], hf["num_key_value_heads"], hf["head_dim"]
    return {
        "attn_q": RotaryPairs((PairedHeads(heads, 0, width),)).join,
        "attn_k": RotaryPairs((PairedHeads(kv_heads, 0, width),)).join,
    }


def qwen(hf: HfConfig) -> Architecture:
    def as_matrix(tensors: Sequence[Tensor]) -> Tensor:
        return only(tensors).reshape(1, -1)

    return Architecture(LLAMA | QWEN_MOE, {"ffn_gate_inp_shexp": as_matrix})


def norm_offset(parts: Iterable[str]) -> dict[str, Join]:
    """llama.cpp stores 1 + weight for norms that multiply by that."""
    return {part: lambda tensors: only(tensors) - 1 for part in parts}
