"""gpt-oss (`model_type` gpt_oss): attention with sinks, a sliding window in every other layer, experts with biases.

Experts are stored input first, with interleaved columns of gate and up. Published checkpoints store them in MXFP4; they
are decoded before these rules apply.
"""

from dataclasses import replace
from typing import Any

from model.checkpoints.rules import Chain, Interleaved, Rule, Transpose
from model.config import AttentionConfig, ClampedSwiGLU, LayerConfig, ModelConfig, MoEConfig, TopKSoftmaxConfig
from model.families import standard
from model.families.standard import HfConfig

_DEFAULTS: dict[str, Any] = {
    "head_dim": 64,
    "attention_bias": True,
    "sliding_window": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 150_000.0,
    "rope_parameters": {
        "rope_type": "yarn",
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "truncate": False,
    },
    "swiglu_alpha": 1.702,
    "swiglu_limit": 7.0,
}


def config_from_hf(hf: HfConfig) -> ModelConfig:
    standard.require(hf, hidden_act="silu")
    hf = _DEFAULTS | {key: value for key, value in hf.items() if value is not None}
    attention = replace(standard.attention(hf), sinks=True)
    router, activation = (
        TopKSoftmaxConfig(hf["num_experts_per_tok"]),
        ClampedSwiGLU(hf["swiglu_alpha"], hf["swiglu_limit"]),
    )
    moe = MoEConfig(router, hf["num_local_experts"], hf["intermediate_size"], activation=activation, bias=True)
    windows = standard.layer_windows({"use_sliding_window": True} | hf, slides=lambda index: index % 2 == 0)
    return standard.decoder(hf, [LayerConfig(replace(attention, window=window), moe) for window in windows])


def rules(config: ModelConfig) -> list[Rule]:
    return standard.decoder_rules(config, {AttentionConfig: _attention, MoEConfig: _moe_rules})


def _attention(ours: str, theirs: str, config: AttentionConfig, hidden_size: int) -> list[Rule]:
    sinks = Rule(f"{ours}.sinks_H", (f"{theirs}.self_attn.sinks",))
    return [*standard.attention_rules(ours, theirs, config, hidden_size), sinks]


def _moe_rules(ours: str, theirs: str, config: MoEConfig, hidden_size: int) -> list[Rule]:
    router, experts = f"{theirs}.mlp.router", f"{theirs}.mlp.experts"
    return [
        Rule(f"{ours}.gate.weight", (f"{router}.weight",)),
        Rule(f"{ours}.gate.bias", (f"{router}.bias",)),
        Rule(f"{ours}.experts.gate_up.weight", (f"{experts}.gate_up_proj",), Chain((Transpose(), Interleaved()))),
        Rule(f"{ours}.experts.gate_up.bias", (f"{experts}.gate_up_proj_bias",), Interleaved(dim=-1)),
        Rule(f"{ours}.experts.down.weight", (f"{experts}.down_proj",), Transpose()),
        Rule(f"{ours}.experts.down.bias", (f"{experts}.down_proj_bias",)),
    ]
