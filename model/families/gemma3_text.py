"""Gemma 3 (`model_type` gemma3_text): norms before and after mixers and feed-forwards, GELU, windows in most layers.

Windowed layers have rotary positions with a base of their own. Norms multiply by 1 + weight; the embeddings are
multiplied by the square root of their width.
"""

from dataclasses import replace

from model.checkpoints.rules import Rule
from model.config import (
    AttentionConfig,
    GatedMLPConfig,
    GeGLU,
    LayerConfig,
    ModelConfig,
    NormConfig,
    NormPlacement,
    QKNormConfig,
)
from model.families import rope, standard
from model.families.standard import HfConfig

_NORMS = {
    "mixer_norm": "input_layernorm",
    "mixer_post_norm": "post_attention_layernorm",
    "feed_forward_norm": "pre_feedforward_layernorm",
    "feed_forward_post_norm": "post_feedforward_layernorm",
}


def config_from_hf(hf: HfConfig) -> ModelConfig:
    standard.require(
        hf,
        hidden_activation="gelu_pytorch_tanh",
        final_logit_softcapping=None,
        attn_logit_softcapping=None,
        use_bidirectional_attention=False,
    )
    hf = {"sliding_window": 4096, "tie_word_embeddings": True, "head_dim": 256, **hf}
    full_hf = {"rope_theta": 1e6, **rope.of_layer_type(hf, "full_attention")}
    local_hf = rope.of_layer_type(hf, "sliding_attention") | {"rope_theta": hf.get("rope_local_base_freq", 1e4)}
    mixers = {
        "full_attention": _attention(full_hf),
        "sliding_attention": replace(_attention(local_hf), window=hf["sliding_window"]),
    }
    dense = GatedMLPConfig(hf["intermediate_size"], GeGLU())
    kinds = hf.get("layer_types") or standard.every_nth_full(hf, hf.get("sliding_window_pattern", 6))
    layers = [LayerConfig(mixer, dense, NormPlacement.SANDWICH) for mixer in standard.of_kinds(kinds, mixers)]
    return replace(standard.decoder(full_hf, layers), norm=_norm(hf), embedding_scale=hf["hidden_size"] ** 0.5)


def _norm(hf: HfConfig) -> NormConfig:
    return replace(standard.norm(hf), offset=1.0)


def _attention(hf: HfConfig) -> AttentionConfig:
    return replace(
        standard.attention(hf), qk_norm=QKNormConfig(_norm(hf)), scale=hf.get("query_pre_attn_scalar", 256) ** -0.5
    )


def rules(config: ModelConfig) -> list[Rule]:
    return standard.decoder_rules(config, norms=_NORMS)
