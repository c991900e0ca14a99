"""Qwen3-MoE (`model_type` qwen3_moe): the attention of Qwen3, MoE layers; some layers may be dense."""

from dataclasses import replace

from model.checkpoints.rules import Rule
from model.config import GatedMLPConfig, LayerConfig, ModelConfig, MoEConfig, QKNormConfig, SoftmaxTopKConfig
from model.families import standard
from model.families.standard import HfConfig


def config_from_hf(hf: HfConfig) -> ModelConfig:
    standard.require(hf, hidden_act="silu")
    window = hf.get("sliding_window", 4096) if hf.get("use_sliding_window") else None
    attention = replace(standard.attention(hf), qk_norm=QKNormConfig(standard.norm(hf)), window=window)
    router = SoftmaxTopKConfig(hf["num_experts_per_tok"], renormalize=hf.get("norm_topk_prob", False))
    num_experts = hf["num_local_experts"] if "num_local_experts" in hf else hf["num_experts"]
    moe = MoEConfig(router, num_experts, hf["moe_intermediate_size"])
    dense = GatedMLPConfig(hf["intermediate_size"])
    layers = range(hf["num_hidden_layers"])
    return standard.decoder(
        hf, [LayerConfig(attention, moe if standard.is_moe_layer(hf, i) else dense) for i in layers]
    )


def rules(config: ModelConfig) -> list[Rule]:
    return standard.decoder_rules(config)
