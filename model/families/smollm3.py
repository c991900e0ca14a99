"""SmolLM3 (`model_type` smollm3): Llama's network, without position embedding in some layers."""

from dataclasses import replace

from model.checkpoints.rules import Rule
from model.config import GatedMLPConfig, LayerConfig, ModelConfig
from model.families import standard
from model.families.standard import HfConfig


def config_from_hf(hf: HfConfig) -> ModelConfig:
    standard.require(hf, hidden_act="silu", mlp_bias=False)
    hf = {"rope_theta": 2e6, "tie_word_embeddings": True, "num_key_value_heads": 4, **hf}
    has_rotary = hf.get("no_rope_layers") or [
        (index + 1) % hf.get("no_rope_layer_interval", 4) != 0 for index in range(hf["num_hidden_layers"])
    ]
    windows = standard.layer_windows(hf, slides=lambda index: not has_rotary[index], default=None)
    attention, dense = standard.attention(hf), GatedMLPConfig(hf["intermediate_size"])
    layers = [
        LayerConfig(replace(attention, rotary=attention.rotary if has_rotary[index] else None, window=window), dense)
        for index, window in enumerate(windows)
    ]
    return standard.decoder(hf, layers)


def rules(config: ModelConfig) -> list[Rule]:
    return standard.decoder_rules(config)
