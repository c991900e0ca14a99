"""The tensors of every architecture."""

from collections.abc import Callable, Sequence

from torch import Tensor

from model.checkpoints.gguf import hybrid_architectures as hybrid
from model.checkpoints.gguf.architecture import (
    ATTENTION,
    FRAME,
    KEYS_AND_VALUES,
    LATENT_ATTENTION,
    LLAMA,
    NORMS,
    Architecture,
    Fused,
    HfConfig,
    experts,
    feed_forward,
    norm_offset,
    only,
    pairs_to_halves,
    qwen,
    shared,
)
from model.checkpoints.rules import Concat, Interleaved, Transpose


def _llama(hf: HfConfig) -> Architecture:
    names = LLAMA
    if hf["model_type"] == "mixtral":
        moe = experts("block_sparse_moe.experts", ("w1", "w3", "w2"))
        names = LLAMA | {"ffn_gate_inp": "block_sparse_moe.gate"} | moe
    return Architecture(names, pairs_to_halves(hf))


def _phimoe(hf: HfConfig) -> Architecture:
    moe = "block_sparse_moe"
    routed = {"ffn_gate_inp": f"{moe}.gate", **experts(f"{moe}.experts", ("w1", "w3", "w2"))}
    return Architecture(LLAMA | routed)


def _hunyuan_moe(hf: HfConfig) -> Architecture:
    own = {
        "attn_q_norm": "self_attn.query_layernorm", "attn_k_norm": "self_attn.key_layernorm",
        "ffn_gate_inp": "mlp.gate.wg", **experts("mlp.experts"), **shared("mlp.shared_mlp"),
    }  # fmt: skip
    return Architecture(LLAMA | own)


def _olmo2(hf: HfConfig) -> Architecture:
    norms = {"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
    return Architecture(FRAME | ATTENTION | norms | feed_forward("mlp"))


def _phi3(hf: HfConfig) -> Architecture:
    fused = {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj", "ffn_down": "mlp.down_proj"}
    return Architecture(FRAME | NORMS | ATTENTION | fused)


def _glm4(hf: HfConfig) -> Architecture:
    norms = {
        "attn_norm": "input_layernorm", "post_attention_norm": "post_self_attn_layernorm",
        "ffn_norm": "post_attention_layernorm", "post_ffw_norm": "post_mlp_layernorm",
    }  # fmt: skip
    return Architecture(FRAME | ATTENTION | norms | {"ffn_up": "mlp.gate_up_proj", "ffn_down": "mlp.down_proj"})


def _gemma3(hf: HfConfig) -> Architecture:
    norms = {
        "attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm", "post_ffw_norm": "post_feedforward_layernorm",
    }  # fmt: skip
    with_offset = ("output_norm", "attn_q_norm", "attn_k_norm", *norms)
    return Architecture(FRAME | ATTENTION | norms | feed_forward("mlp"), norm_offset(with_offset))


def _gpt_oss(hf: HfConfig) -> Architecture:
    names = {
        **FRAME,
        **ATTENTION,
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
    **experts("mlp.experts"), **shared("mlp.shared_experts"),
}  # fmt: skip


def _dots1(hf: HfConfig) -> Architecture:
    return Architecture(LLAMA | _DEEPSEEK_MOE)


def _glm4_moe(hf: HfConfig) -> Architecture:
    return Architecture(LLAMA | _DEEPSEEK_MOE | {"post_attention_norm": "post_attention_layernorm"})


def _ernie4_5_moe(hf: HfConfig) -> Architecture:
    bias = {"exp_probs_b.bias": "mlp.moe_statics.e_score_correction_bias"}
    return Architecture(LLAMA | _DEEPSEEK_MOE | bias, {"exp_probs_b.bias": _as_row})


def _as_row(tensors: Sequence[Tensor]) -> Tensor:
    return only(tensors).reshape(1, -1)


def _minimax_m2(hf: HfConfig) -> Architecture:
    moe = "block_sparse_moe"
    router = {"ffn_gate_inp": f"{moe}.gate", "exp_probs_b.bias": f"{moe}.e_score_correction_bias"}
    return Architecture(LLAMA | router | experts(f"{moe}.experts", ("w1", "w3", "w2")))


def _afmoe(hf: HfConfig) -> Architecture:
    norms = {
        "attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_mlp_layernorm", "post_ffw_norm": "post_mlp_layernorm",
    }  # fmt: skip
    own = {
        "attn_gate": "self_attn.gate_proj", "ffn_gate_inp": "mlp.router.gate", "exp_probs_b.bias": "mlp.expert_bias",
    }  # fmt: skip
    return Architecture(LLAMA | _DEEPSEEK_MOE | norms | own)


def _deepseek2(hf: HfConfig) -> Architecture:
    dense = FRAME | NORMS | feed_forward("mlp")
    return Architecture(dense | LATENT_ATTENTION | _DEEPSEEK_MOE, fused=(KEYS_AND_VALUES,))


ARCHITECTURES: dict[str, Callable[[HfConfig], Architecture]] = {
    "llama": _llama,
    "qwen2": qwen,
    "qwen2moe": qwen,
    "qwen3": qwen,
    "qwen3moe": qwen,
    "qwen3next": hybrid.qwen3_next,
    "qwen35moe": hybrid.qwen35_moe,
    "olmoe": qwen,
    "olmo2": _olmo2,
    "smollm3": _llama,
    "phi3": _phi3,
    "phimoe": _phimoe,
    "glm4": _glm4,
    "gemma3": _gemma3,
    "granite": hybrid.granite,
    "granitemoe": hybrid.granite,
    "granitehybrid": hybrid.granite_hybrid,
    "lfm2": hybrid.lfm2,
    "lfm2moe": hybrid.lfm2,
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
