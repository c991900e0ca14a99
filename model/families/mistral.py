"""Mistral (`model_type` mistral): Llama with a sliding window of 4,096 tokens unless the config says otherwise."""

from dataclasses import replace

from model.checkpoints.rules import Rule
from model.config import GatedMLPConfig, LayerConfig, ModelConfig
from model.families import standard
from model.families.standard import HfConfig


def config_from_hf(hf: HfConfig) -> ModelConfig:
    standard.require(hf, hidden_act="silu", attention_bias=False)
    attention = replace(standard.attention(hf), window=hf.get("sliding_window", 4096))
    layer = LayerConfig(attention, GatedMLPConfig(hf["intermediate_size"]))
    return standard.decoder(hf, [layer] * hf["num_hidden_layers"])


def rules(config: ModelConfig) -> list[Rule]:
    return standard.decoder_rules(config)
