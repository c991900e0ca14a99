"""DeepSeek-V3 (`model_type` deepseek_v3): the network of V2 with sigmoid routers and a load-balancing bias.

The score of a group of experts is the sum of its two best. The layers for multi-token prediction are not loaded.
"""

from typing import Any

from model.checkpoints.rules import Rule
from model.config import GroupLimit, LatentAttentionConfig, ModelConfig, MoEConfig, SigmoidBiasConfig
from model.families import deepseek_v2, standard
from model.families.standard import HfConfig

_DEFAULTS: dict[str, Any] = {
    "first_k_dense_replace": 3,
    "n_shared_experts": 1,
    "routed_scaling_factor": 2.5,
    "n_group": 8,
    "topk_group": 4,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
}


def config_from_hf(hf: HfConfig) -> ModelConfig:
    standard.require(hf, scoring_func="sigmoid", topk_method="noaux_tc")
    hf = _DEFAULTS | dict(hf)
    return deepseek_v2.decoder(hf, router(hf))


def router(hf: HfConfig) -> SigmoidBiasConfig:
    """The router of the MoE layers, which other families share."""
    groups = GroupLimit(hf["n_group"], hf["topk_group"], best_of=2) if (hf["n_group"] or 1) > 1 else None
    return SigmoidBiasConfig(hf["num_experts_per_tok"], hf["norm_topk_prob"], hf["routed_scaling_factor"], groups)


def ignored(hf: HfConfig) -> tuple[str, ...]:
    """The layers for multi-token prediction, which are numbered after the others."""
    depth, number = hf["num_hidden_layers"], hf.get("num_nextn_predict_layers")
    return tuple(f"model.layers.{depth + index}." for index in range(1 if number is None else number))


def rules(config: ModelConfig) -> list[Rule]:
    return standard.decoder_rules(config, {LatentAttentionConfig: deepseek_v2.attention_rules, MoEConfig: moe_rules})


def moe_rules(ours: str, theirs: str, config: MoEConfig, hidden_size: int) -> list[Rule]:
    bias = Rule(f"{ours}.router.bias_E", (f"{theirs}.mlp.gate.e_score_correction_bias",))
    return [*deepseek_v2.moe_rules(ours, theirs, config, hidden_size), bias]
