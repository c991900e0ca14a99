"""Qwen1.5-MoE and Qwen2-MoE (`model_type` qwen2_moe): MoE with a shared expert that has a sigmoid gate.

Queries, keys and values have biases. Some layers may be dense; every other one of the lower layers may have a window.
"""

from dataclasses import replace

from model.checkpoints.rules import Rule
from model.config import GatedMLPConfig, LayerConfig, ModelConfig, MoEConfig, SharedExpertConfig, SoftmaxTopKConfig
from model.families import standard
from model.families.standard import HfConfig


def config_from_hf(hf: HfConfig) -> ModelConfig:
    standard.require(hf, hidden_act="silu")
    attention = replace(standard.attention(hf), input_bias=hf.get("qkv_bias", True), output_bias=False)
    router = SoftmaxTopKConfig(hf["num_experts_per_tok"], renormalize=hf.get("norm_topk_prob", False))
    shared = SharedExpertConfig(hf["shared_expert_intermediate_size"], gated=True)
    moe = MoEConfig(router, hf["num_experts"], hf["moe_intermediate_size"], shared)
    dense = GatedMLPConfig(hf["intermediate_size"])

    def slides(index: int) -> bool:
        return index % 2 == 0 and index < hf.get("max_window_layers", 28)

    layers = [
        LayerConfig(replace(attention, window=window), moe if standard.is_moe_layer(hf, index) else dense)
        for index, window in enumerate(standard.layer_windows(hf, slides))
    ]
    return standard.decoder(hf, layers)


def rules(config: ModelConfig) -> list[Rule]:
    return standard.decoder_rules(config)
