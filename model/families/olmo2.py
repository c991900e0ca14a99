"""OLMo 2 (`model_type` olmo2): norms after mixers and feed-forwards; queries and keys normalized over all heads."""

from dataclasses import replace

from model.checkpoints.rules import Rule
from model.config import AttentionConfig, GatedMLPConfig, LayerConfig, ModelConfig, NormPlacement, QKNormConfig
from model.families import standard
from model.families.standard import HfConfig

POST_NORMS = {
    "mixer_post_norm": "post_attention_layernorm",
    "feed_forward_post_norm": "post_feedforward_layernorm",
}


def config_from_hf(hf: HfConfig) -> ModelConfig:
    standard.require(hf, hidden_act="silu")
    hf = {"rms_norm_eps": 1e-5, **hf}
    layer = LayerConfig(attention(hf), GatedMLPConfig(hf["intermediate_size"]), NormPlacement.POST)
    return standard.decoder(hf, [layer] * hf["num_hidden_layers"])


def attention(hf: HfConfig) -> AttentionConfig:
    return replace(standard.attention(hf), qk_norm=QKNormConfig(standard.norm(hf), per_head=False))


def rules(config: ModelConfig) -> list[Rule]:
    return standard.decoder_rules(config, norms=POST_NORMS)
