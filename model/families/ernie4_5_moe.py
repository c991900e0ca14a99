"""ERNIE 4.5 with experts (`model_type` ernie4_5_moe): rotary coordinates are neighbours; softmax routers with a bias.

Layers outside a range, and those between every `moe_layer_interval`-th one, are dense.
"""

from model.checkpoints.rules import Rule, Same
from model.config import (
    AttentionConfig,
    GatedMLPConfig,
    LayerConfig,
    ModelConfig,
    MoEConfig,
    SharedExpertConfig,
    SoftmaxBiasConfig,
)
from model.families import deepseek_v2, standard
from model.families.standard import HfConfig


def config_from_hf(hf: HfConfig) -> ModelConfig:
    standard.require(hf, hidden_act="silu", use_bias=False, moe_norm_min=1e-12)
    hf = {"rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "tie_word_embeddings": True, **hf}
    attention, moe, dense = standard.attention(hf), _moe(hf), GatedMLPConfig(hf["intermediate_size"])
    return standard.decoder(
        hf, [LayerConfig(attention, moe if _is_moe(hf, i) else dense) for i in range(hf["num_hidden_layers"])]
    )


def _is_moe(hf: HfConfig, index: int) -> bool:
    last = hf.get("moe_layer_end_index", -1)
    last = hf["num_hidden_layers"] - 1 if last == -1 else last
    is_in_range = hf.get("moe_layer_start_index", 1) <= index <= last
    return is_in_range and (index + 1) % hf.get("moe_layer_interval", 1) == 0


def _moe(hf: HfConfig) -> MoEConfig:
    width, num_shared = hf["moe_intermediate_size"], hf.get("moe_num_shared_experts", 2)
    shared = SharedExpertConfig(width * num_shared) if num_shared else None
    return MoEConfig(SoftmaxBiasConfig(hf.get("moe_k", 6)), hf["moe_num_experts"], width, shared)


def ignored(hf: HfConfig) -> tuple[str, ...]:
    """What is for multi-token prediction."""
    return ("model.mtp_",)


def rules(config: ModelConfig) -> list[Rule]:
    return standard.decoder_rules(config, {AttentionConfig: standard.paired_attention_rules, MoEConfig: _moe_rules})


def _moe_rules(ours: str, theirs: str, config: MoEConfig, hidden_size: int) -> list[Rule]:
    merge = Same((1, config.num_experts), (config.num_experts,))
    bias = Rule(f"{ours}.router.bias_E", (f"{theirs}.mlp.moe_statics.e_score_correction_bias",), merge)
    return [*deepseek_v2.moe_rules(ours, theirs, config, hidden_size), bias]
