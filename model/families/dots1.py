"""dots.llm1 (`model_type` dots1): the attention of Qwen3, windows in some upper layers; the MoE of DeepSeek-V3."""

from dataclasses import replace
from typing import Any

from model.checkpoints.rules import Rule
from model.config import ModelConfig, MoEConfig, QKNormConfig
from model.families import deepseek_v2, deepseek_v3, standard
from model.families.standard import HfConfig

_DEFAULTS: dict[str, Any] = {
    "first_k_dense_replace": 0,
    "n_shared_experts": None,
    "routed_scaling_factor": 1.0,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": False,
}


def config_from_hf(hf: HfConfig) -> ModelConfig:
    standard.require(hf, hidden_act="silu")
    hf = _DEFAULTS | dict(hf) | {"use_sliding_window": True}
    attention = replace(standard.attention(hf), qk_norm=QKNormConfig(standard.norm(hf)))
    windows = standard.layer_windows(hf, slides=lambda index: index >= hf.get("max_window_layers", 62))
    feed_forwards = deepseek_v2.dense_then_moe(hf, deepseek_v3.router(hf))
    mixers = [replace(attention, window=window) for window in windows]
    return standard.decoder(hf, standard.paired_layers(mixers, feed_forwards))


def rules(config: ModelConfig) -> list[Rule]:
    return standard.decoder_rules(config, {MoEConfig: deepseek_v3.moe_rules})
