"""Trinity (`model_type` afmoe): gated attention, norms before and after mixers and feed-forwards, sigmoid routers.

Layers with a window have rotary positions, the others none.
"""

from dataclasses import replace
from typing import Any

from model.checkpoints.rules import Concat, Rule
from model.config import (
    AttentionConfig,
    GatedMLPConfig,
    LayerConfig,
    ModelConfig,
    MoEConfig,
    NormPlacement,
    QKNormConfig,
    SharedExpertConfig,
    SigmoidBiasConfig,
)
from model.families import standard
from model.families.standard import HfConfig, PartRules

_NORMS = {
    "mixer_norm": "input_layernorm",
    "mixer_post_norm": "post_attention_layernorm",
    "feed_forward_norm": "pre_mlp_layernorm",
    "feed_forward_post_norm": "post_mlp_layernorm",
}
_DEFAULTS: dict[str, Any] = {
    "rms_norm_eps": 1e-5,
    "head_dim": 128,
    "num_dense_layers": 1,
    "num_experts": 64,
    "num_experts_per_tok": 6,
    "num_shared_experts": 2,
    "route_scale": 1.0,
    "global_attn_every_n_layers": 4,
    "sliding_window": 1024,
}


def config_from_hf(hf: HfConfig) -> ModelConfig:
    standard.require(hf, hidden_act="silu", attention_bias=False)
    hf = _DEFAULTS | dict(hf)
    attention = replace(standard.attention(hf), qk_norm=QKNormConfig(standard.norm(hf)), output_gate=True)
    mixers = {
        "full_attention": replace(attention, rotary=None),
        "sliding_attention": replace(attention, window=hf["sliding_window"]),
    }
    kinds = hf.get("layer_types") or standard.every_nth_full(hf, hf["global_attn_every_n_layers"])
    moe, dense = _moe(hf), GatedMLPConfig(hf["intermediate_size"])
    layers = [
        LayerConfig(mixer, dense if index < hf["num_dense_layers"] else moe, NormPlacement.SANDWICH)
        for index, mixer in enumerate(standard.of_kinds(kinds, mixers))
    ]
    scale = hf["hidden_size"] ** 0.5 if hf.get("mup_enabled", False) else 1.0
    return replace(standard.decoder(hf, layers), embedding_scale=scale)


def _moe(hf: HfConfig) -> MoEConfig:
    router, width = SigmoidBiasConfig(hf["num_experts_per_tok"], scale=hf["route_scale"]), hf["moe_intermediate_size"]
    return MoEConfig(router, hf["num_experts"], width, SharedExpertConfig(width * hf["num_shared_experts"]))


def rules(config: ModelConfig) -> list[Rule]:
    parts: dict[type, PartRules] = {AttentionConfig: _attention_rules, MoEConfig: _moe_rules}
    return standard.decoder_rules(config, parts, norms=_NORMS)


def _attention_rules(ours: str, theirs: str, config: AttentionConfig, hidden_size: int) -> list[Rule]:
    query_width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    sources = tuple(f"{theirs}.self_attn.{name}_proj.weight" for name in ("q", "gate", "k", "v"))
    names = {"out_proj": "o_proj", "q_norm": "q_norm", "k_norm": "k_norm"}
    return [
        Rule(f"{ours}.in_proj.weight", sources, Concat((query_width, query_width, kv_width, kv_width))),
        *(Rule(f"{ours}.{our}.weight", (f"{theirs}.self_attn.{name}.weight",)) for our, name in names.items()),
    ]


def _moe_rules(ours: str, theirs: str, config: MoEConfig, hidden_size: int) -> list[Rule]:
    assert config.shared is not None
    theirs += ".mlp"
    experts, width = config.num_experts, config.expert_width
    return [
        Rule(f"{ours}.gate.weight", (f"{theirs}.router.gate.weight",)),
        Rule(f"{ours}.router.bias_E", (f"{theirs}.expert_bias",)),
        *standard.expert_rules(
            f"{ours}.experts", f"{theirs}.experts", experts=experts, width=width, hidden_size=hidden_size
        ),
        *standard.gated_mlp_rules(f"{ours}.shared", f"{theirs}.shared_experts", config.shared.width),
    ]
