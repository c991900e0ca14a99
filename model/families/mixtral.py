"""Mixtral (`model_type` mixtral): the attention of Llama, MoE in every layer, renormalized weights."""

from dataclasses import replace

from model.checkpoints.rules import Rule
from model.config import LayerConfig, ModelConfig, MoEConfig, SoftmaxTopKConfig
from model.families import standard
from model.families.standard import HfConfig


def config_from_hf(hf: HfConfig) -> ModelConfig:
    standard.require(hf, hidden_act="silu", attention_bias=False)
    hf = {"rms_norm_eps": 1e-5, "rope_theta": 1e6, **hf}
    attention = replace(standard.attention(hf), window=hf.get("sliding_window"))
    moe = MoEConfig(SoftmaxTopKConfig(hf["num_experts_per_tok"]), hf["num_local_experts"], hf["intermediate_size"])
    return standard.decoder(hf, [LayerConfig(attention, moe)] * hf["num_hidden_layers"])


def rules(config: ModelConfig) -> list[Rule]:
    return standard.decoder_rules(config, {MoEConfig: moe_rules})


def moe_rules(ours: str, theirs: str, config: MoEConfig, hidden_size: int) -> list[Rule]:
    return [
        Rule(f"{ours}.gate.weight", (f"{theirs}.block_sparse_moe.gate.weight",)),
        *standard.expert_rules(
            f"{ours}.experts",
            f"{theirs}.block_sparse_moe.experts",
            experts=config.num_experts,
            width=config.expert_width,
            hidden_size=hidden_size,
            names=("w1", "w3", "w2"),
        ),
    ]
