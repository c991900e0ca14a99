"""Llama (`model_type` llama), of which most families are variants: grouped-query attention, gated MLP, two norms."""

from model.checkpoints.rules import Rule
from model.config import GatedMLPConfig, LayerConfig, ModelConfig
from model.families import standard
from model.families.standard import HfConfig


def config_from_hf(hf: HfConfig) -> ModelConfig:
    standard.require(hf, hidden_act="silu", mlp_bias=False)
    layer = LayerConfig(standard.attention(hf), GatedMLPConfig(hf["intermediate_size"]))
    return standard.decoder(hf, [layer] * hf["num_hidden_layers"])


def rules(config: ModelConfig) -> list[Rule]:
    return standard.decoder_rules(config)
