"""Qwen3 (`model_type` qwen3): queries and keys are normalized per head; a window in some upper layers."""

from dataclasses import replace

from model.checkpoints.rules import Rule
from model.config import GatedMLPConfig, LayerConfig, ModelConfig, QKNormConfig
from model.families import standard
from model.families.standard import HfConfig


def config_from_hf(hf: HfConfig) -> ModelConfig:
    standard.require(hf, hidden_act="silu")
    attention = replace(standard.attention({"head_dim": 128, **hf}), qk_norm=QKNormConfig(standard.norm(hf)))
    dense = GatedMLPConfig(hf["intermediate_size"])
    windows = standard.layer_windows(hf, slides=lambda index: index >= hf.get("max_window_layers", 28))
    return standard.decoder(hf, [LayerConfig(replace(attention, window=window), dense) for window in windows])


def rules(config: ModelConfig) -> list[Rule]:
    return standard.decoder_rules(config)
