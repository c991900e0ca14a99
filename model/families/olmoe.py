"""OLMoE (`model_type` olmoe): routed experts in every layer; queries and keys normalized over all heads at once."""

from dataclasses import replace

from model.checkpoints.rules import Rule
from model.config import LayerConfig, ModelConfig, MoEConfig, QKNormConfig, SoftmaxTopKConfig
from model.families import standard
from model.families.standard import HfConfig


def config_from_hf(hf: HfConfig) -> ModelConfig:
    standard.require(hf, hidden_act="silu", clip_qkv=None)
    hf = {"rms_norm_eps": 1e-5, **hf}
    attention = replace(standard.attention(hf), qk_norm=QKNormConfig(standard.norm(hf), per_head=False))
    router = SoftmaxTopKConfig(hf["num_experts_per_tok"], renormalize=hf.get("norm_topk_prob", False))
    moe = MoEConfig(router, hf["num_experts"], hf["intermediate_size"])
    return standard.decoder(hf, [LayerConfig(attention, moe)] * hf["num_hidden_layers"])


def rules(config: ModelConfig) -> list[Rule]:
    return standard.decoder_rules(config)
