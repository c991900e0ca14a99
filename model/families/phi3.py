"""Phi-3 and Phi-4 (`model_type` phi3): Llama's network; queries, keys and values are one tensor, gate and up too."""

from dataclasses import replace

from model.checkpoints.rules import Rule
from model.config import AttentionConfig, GatedMLPConfig, LayerConfig, ModelConfig
from model.families import standard
from model.families.standard import HfConfig


def config_from_hf(hf: HfConfig) -> ModelConfig:
    standard.require(hf, hidden_act="silu")
    hf = {"rms_norm_eps": 1e-5, "original_max_position_embeddings": 4096, **hf}
    attention = replace(standard.attention({**hf, "attention_bias": False}), window=hf.get("sliding_window"))
    layer = LayerConfig(attention, GatedMLPConfig(hf["intermediate_size"]))
    return standard.decoder(hf, [layer] * hf["num_hidden_layers"])


def rules(config: ModelConfig) -> list[Rule]:
    return standard.decoder_rules(config, {AttentionConfig: _attention_rules, GatedMLPConfig: fused_mlp_rules})


def _attention_rules(ours: str, theirs: str, config: AttentionConfig, hidden_size: int) -> list[Rule]:
    return [
        Rule(f"{ours}.in_proj.weight", (f"{theirs}.self_attn.qkv_proj.weight",)),
        Rule(f"{ours}.out_proj.weight", (f"{theirs}.self_attn.o_proj.weight",)),
    ]


def fused_mlp_rules(ours: str, theirs: str, config: GatedMLPConfig, hidden_size: int) -> list[Rule]:
    """A gated MLP that is stored as in our network."""
    return [
        Rule(f"{ours}.gate_up.weight", (f"{theirs}.mlp.gate_up_proj.weight",)),
        Rule(f"{ours}.down.weight", (f"{theirs}.mlp.down_proj.weight",)),
    ]
