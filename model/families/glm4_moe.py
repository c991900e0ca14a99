"""GLM-4.5 (`model_type` glm4_moe): attention with rotary positions on half of each head, the MoE of DeepSeek-V3."""

from dataclasses import replace
from typing import Any

from model.checkpoints.rules import Rule
from model.config import LayerConfig, ModelConfig, MoEConfig, QKNormConfig
from model.families import deepseek_v2, deepseek_v3, standard
from model.families.deepseek_v3 import ignored
from model.families.standard import HfConfig

__all__ = ["config_from_hf", "ignored", "rules"]

DEFAULTS: dict[str, Any] = {
    "rms_norm_eps": 1e-5,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
    "routed_scaling_factor": 1.0,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
}


def config_from_hf(hf: HfConfig) -> ModelConfig:
    standard.require(hf, hidden_act="silu")
    hf = DEFAULTS | {"partial_rotary_factor": 0.5} | dict(hf)
    qk_norm = QKNormConfig(standard.norm(hf)) if hf.get("use_qk_norm", False) else None
    attention = replace(standard.attention(hf), qk_norm=qk_norm, output_bias=False)
    feed_forwards = deepseek_v2.dense_then_moe(hf, deepseek_v3.router(hf))
    return standard.decoder(hf, [LayerConfig(attention, feed_forward) for feed_forward in feed_forwards])


def rules(config: ModelConfig) -> list[Rule]:
    return standard.decoder_rules(config, {MoEConfig: deepseek_v3.moe_rules})
