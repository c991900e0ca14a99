"""Granite (`model_type` granite): Llama's network with four multipliers.

They scale the embeddings, the attention scores, the output of each mixer and feed-forward, and (as a divisor) the
logits. The other Granite families have them too.
"""

from collections.abc import Sequence
from dataclasses import replace

from model.checkpoints.rules import Rule
from model.config import AttentionConfig, GatedMLPConfig, LayerConfig, ModelConfig
from model.families import standard
from model.families.standard import HfConfig


def config_from_hf(hf: HfConfig) -> ModelConfig:
    standard.require(hf, hidden_act="silu", mlp_bias=False)
    layer = LayerConfig(attention(hf), GatedMLPConfig(hf["intermediate_size"]))
    return decoder(hf, [layer] * hf["num_hidden_layers"])


def attention(hf: HfConfig) -> AttentionConfig:
    return replace(standard.attention(hf), scale=hf.get("attention_multiplier", 1.0))


def decoder(hf: HfConfig, layers: Sequence[LayerConfig]) -> ModelConfig:
    """The network around the layers."""
    return replace(
        standard.decoder(hf, layers),
        embedding_scale=hf.get("embedding_multiplier", 1.0),
        residual_scale=hf.get("residual_multiplier", 1.0),
        logits_scale=1 / hf.get("logits_scaling", 1.0),
    )


def rules(config: ModelConfig) -> list[Rule]:
    return standard.decoder_rules(config)
