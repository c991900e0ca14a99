"""Nemotron-H and Nemotron 3 (`model_type` nemotron_h): Mamba-2 and a few attention layers, MLPs without gates, MoE.

Every mixer and every feed-forward is a layer of its own there; here a feed-forward belongs to the mixer before it.
Attention has no position embedding. The modules for multi-token prediction are not loaded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from model.checkpoints.reader import CheckpointError
from model.checkpoints.rules import Rule, Stack
from model.config import (
    AttentionConfig,
    GatedMLPConfig,
    LayerConfig,
    Mamba2Config,
    MixerConfig,
    ModelConfig,
    MoEConfig,
    SharedExpertConfig,
    SquaredReLU,
)
from model.families import deepseek_v3, granitemoehybrid, standard
from model.families.standard import HfConfig

_PATTERN = {"M": "linear_attention", "*": "full_attention", "-": "mlp", "E": "moe"}
_OLDER = {"mamba": "linear_attention", "attention": "full_attention"}
_DEFAULTS: dict[str, Any] = {
    "layer_norm_epsilon": 1e-5,
    "head_dim": 128,
    "num_key_value_heads": 8,
    "mamba_num_heads": 128,
    "mamba_head_dim": 64,
    "n_groups": 8,
    "ssm_state_size": 128,
    "conv_kernel": 4,
    "use_conv_bias": True,
    "use_bias": False,
    "n_group": 1,
    "topk_group": 1,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.0,
    "moe_intermediate_size": 7688,
    "moe_shared_expert_intermediate_size": 7688,
    "intermediate_size": 21504,
}


def config_from_hf(hf: HfConfig) -> ModelConfig:
    standard.require(hf, mlp_hidden_act="relu2", mamba_hidden_act="silu", mlp_bias=False, attention_bias=False)
    standard.require(hf, moe_latent_size=None, sliding_window=None)
    hf = _DEFAULTS | dict(hf)
    hf = {**hf, "rms_norm_eps": hf["layer_norm_epsilon"]}
    attention = replace(standard.attention(hf), rotary=None)
    mixers = {"linear_attention": _mamba(hf), "full_attention": attention}
    feed_forwards = {"mlp": GatedMLPConfig(hf["intermediate_size"], SquaredReLU()), "moe": _moe(hf)}
    return standard.decoder(hf, _paired(_layer_types(hf), mixers, feed_forwards))


def _layer_types(hf: HfConfig) -> list[str]:
    kinds = hf.get("layers_block_type") or hf.get("layer_types")
    if kinds is None:
        pattern = hf.get("hybrid_override_pattern", "ME*-")
        return [_PATTERN.get(letter, letter) for letter in pattern]
    return [_OLDER.get(kind, kind) for kind in kinds]


def _paired(kinds: Sequence[str], mixers: Mapping[str, Any], feed_forwards: Mapping[str, Any]) -> list[LayerConfig]:
    """A layer for each mixer, with the feed-forward that follows it."""
    layers: list[LayerConfig] = []
    for kind, part in zip(kinds, standard.of_kinds(kinds, {**mixers, **feed_forwards}), strict=True):
        if kind in mixers:
            layers.append(LayerConfig(part, None))
        elif layers and layers[-1].feed_forward is None:
            layers[-1] = replace(layers[-1], feed_forward=part)
        else:
            raise CheckpointError(f"the layers of nemotron_h have a {kind} that does not follow a mixer")
    return layers


def _mamba(hf: HfConfig) -> Mamba2Config:
    low, high = hf.get("time_step_limit") or (0.0, float("inf"))
    return Mamba2Config(
        hf["mamba_num_heads"],
        hf["mamba_head_dim"],
        hf["n_groups"],
        hf["ssm_state_size"],
        hf["conv_kernel"],
        hf["use_conv_bias"],
        hf["use_bias"],
        (granitemoehybrid.number(low), granitemoehybrid.number(high)),
        hf["layer_norm_epsilon"],
    )


def _moe(hf: HfConfig) -> MoEConfig:
    shared = SharedExpertConfig(hf["moe_shared_expert_intermediate_size"])
    width = hf["moe_intermediate_size"]
    return MoEConfig(deepseek_v3.router(hf), hf["n_routed_experts"], width, shared, SquaredReLU())


def ignored(hf: HfConfig) -> tuple[str, ...]:
    return ("mtp.",)


def rules(config: ModelConfig) -> list[Rule]:
    found = [
        Rule("embedding.weight", ("backbone.embeddings.weight",)),
        Rule("norm.weight", ("backbone.norm_f.weight",)),
    ]
    if not config.tie_word_embeddings:
        found.append(Rule("head.weight", ("lm_head.weight",)))
    theirs = 0
    for index, layer in enumerate(config.layers):
        for part, of_part in (("mixer", layer.mixer), ("feed_forward", layer.feed_forward)):
            if of_part is not None:
                found += _layer_rules(
                    f"blocks.{index}.{part}", f"backbone.layers.{theirs}", of_part, config.hidden_size
                )
                theirs += 1
    return found


def _layer_rules(
    ours: str, theirs: str, config: MixerConfig | GatedMLPConfig | MoEConfig, hidden_size: int
) -> list[Rule]:
    norm, theirs = Rule(f"{ours}_norm.weight", (f"{theirs}.norm.weight",)), f"{theirs}.mixer"
    if isinstance(config, AttentionConfig):
        return [norm, *standard.attention_rules(ours, theirs, config, hidden_size, module="")]
    if isinstance(config, Mamba2Config):
        return [norm, *granitemoehybrid.mamba_rules(ours, theirs, config)]
    if isinstance(config, MoEConfig):
        return [norm, *_moe_rules(ours, theirs, config, hidden_size)]
    return [norm, *_mlp_rules(ours, theirs)]


def _mlp_rules(ours: str, theirs: str) -> list[Rule]:
    return [
        Rule(f"{ours}.gate_up.weight", (f"{theirs}.up_proj.weight",)),
        Rule(f"{ours}.down.weight", (f"{theirs}.down_proj.weight",)),
    ]


def _moe_rules(ours: str, theirs: str, config: MoEConfig, hidden_size: int) -> list[Rule]:
    experts = range(config.num_experts)
    found = [
        Rule(f"{ours}.gate.weight", (f"{theirs}.gate.weight",)),
        Rule(f"{ours}.router.bias_E", (f"{theirs}.gate.e_score_correction_bias",)),
        *_mlp_rules(f"{ours}.shared", f"{theirs}.shared_experts"),
    ]
    for our, name, rows in (("gate_up", "up_proj", config.expert_width), ("down", "down_proj", hidden_size)):
        sources = tuple(f"{theirs}.experts.{expert}.{name}.weight" for expert in experts)
        found.append(Rule(f"{ours}.experts.{our}.weight", sources, Stack(config.num_experts, (rows,))))
    return found
