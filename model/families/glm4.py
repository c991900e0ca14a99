"""GLM-4 (`model_type` glm4): norms before and after mixers and feed-forwards, rotary positions on half of each head."""

from dataclasses import replace

from model.checkpoints.rules import Rule
from model.config import AttentionConfig, GatedMLPConfig, LayerConfig, ModelConfig, NormPlacement
from model.families import phi3, standard
from model.families.standard import HfConfig, PartRules

_NORMS = {
    "mixer_norm": "input_layernorm",
    "mixer_post_norm": "post_self_attn_layernorm",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward_post_norm": "post_mlp_layernorm",
}


def config_from_hf(hf: HfConfig) -> ModelConfig:
    standard.require(hf, hidden_act="silu")
    hf = {"rms_norm_eps": 1.5625e-7, "attention_bias": True, "head_dim": 128, "partial_rotary_factor": 0.5, **hf}
    attention = replace(standard.attention(hf), output_bias=False)
    layer = LayerConfig(attention, GatedMLPConfig(hf["intermediate_size"]), NormPlacement.SANDWICH)
    return standard.decoder(hf, [layer] * hf["num_hidden_layers"])


def rules(config: ModelConfig) -> list[Rule]:
    parts: dict[type, PartRules] = {
        AttentionConfig: standard.paired_attention_rules,
        GatedMLPConfig: phi3.fused_mlp_rules,
    }
    return standard.decoder_rules(config, parts, norms=_NORMS)
