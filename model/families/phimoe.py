"""Phi-3.5-MoE (`model_type` phimoe): layer norms with biases, and two experts per token, chosen by SparseMixer."""

from dataclasses import replace

from model.checkpoints.reader import CheckpointError
from model.checkpoints.rules import Rule
from model.config import (
    FrequencyFactors,
    LayerConfig,
    LayerNormConfig,
    ModelConfig,
    MoEConfig,
    RotaryConfig,
    SparseMixerConfig,
)
from model.families import mixtral, rope, standard
from model.families.standard import HfConfig


def config_from_hf(hf: HfConfig) -> ModelConfig:
    standard.require(hf, hidden_act="silu", num_experts_per_tok=2)
    hf = {"rope_theta": 1e6, **hf}
    attention = standard.attention(hf)
    attention = replace(attention, rotary=_rotary(hf, attention.head_dim), window=hf.get("sliding_window"))
    router = SparseMixerConfig(jitter=hf.get("router_jitter_noise", 0.01))
    moe = MoEConfig(router, hf.get("num_local_experts", 16), hf["intermediate_size"])
    return replace(
        standard.decoder(hf, [LayerConfig(attention, moe)] * hf["num_hidden_layers"]),
        norm=LayerNormConfig(hf.get("rms_norm_eps", 1e-5)),
        head_bias=hf.get("lm_head_bias", False),
    )


def _rotary(hf: HfConfig, head_dim: int) -> RotaryConfig:
    """LongRoPE has its magnitudes in the config: `short_mscale` and `long_mscale`.

    A longer context than the original one has the long factors, as in the code that was published with the weights;
    transformers has the short ones with the long magnitude.
    """
    rotary = rope.rotary(hf, head_dim)
    if not isinstance(rotary.scaling, FrequencyFactors):
        return rotary
    parameters = rope.parameters(hf)
    is_extended = hf["max_position_embeddings"] > rope.longrope_original(hf)
    name = "long_mscale" if is_extended else "short_mscale"
    if name not in parameters:
        raise CheckpointError(f"the rope scaling of phimoe has no {name}")
    return replace(rotary, scaling=replace(rotary.scaling, attention_factor=float(parameters[name])))


def rules(config: ModelConfig) -> list[Rule]:
    found = standard.decoder_rules(config, {MoEConfig: mixtral.moe_rules})
    norms = [rule for rule in found if "norm.weight" in rule.target]
    biases = [_bias_of(rule) for rule in norms]
    if config.head_bias:
        biases.append(Rule("head.bias", ("lm_head.bias",)))
    return [*found, *biases]


def _bias_of(rule: Rule) -> Rule:
    (source,) = rule.sources
    return Rule(rule.target.replace("weight", "bias"), (source.replace("weight", "bias"),))
