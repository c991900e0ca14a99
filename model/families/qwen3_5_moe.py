"""Qwen3.5 with experts (`model_type` qwen3_5_moe): the text part. Images and multi-token prediction are not loaded.

The network is that of Qwen3-Next; the storage differs. The four projections of a DeltaNet are separate tensors, every
layer has experts, and their weights are always renormalized. Published checkpoints stack the experts and prefix the
names of the text part; those that transformers writes may do neither. `layouts` has a list of rules for each way.
"""

from dataclasses import replace

from model.checkpoints.rules import Concat, Rule
from model.config import DeltaNetConfig, ModelConfig
from model.families import qwen3_next
from model.families.standard import HfConfig

# options of Qwen3-Next that Qwen3.5 fixes
_FIXED = {"norm_topk_prob": True, "mlp_only_layers": [], "decoder_sparse_step": 1, "intermediate_size": 0}


def config_from_hf(hf: HfConfig) -> ModelConfig:
    """From the config.json of the multimodal model (its `text_config`) or of a text model."""
    text = {"tie_word_embeddings": hf.get("tie_word_embeddings", False)} | dict(hf.get("text_config", hf))
    return qwen3_next.config_from_hf(text | _FIXED)


def ignored(hf: HfConfig) -> tuple[str, ...]:
    return "model.visual.", "mtp."


def rules(config: ModelConfig) -> list[Rule]:
    """The layout of a text model written by transformers."""
    found = {rule.target: rule for rule in qwen3_next.rules(config)}
    for index, layer in enumerate(config.layers):
        if isinstance(layer.mixer, DeltaNetConfig):
            target = f"blocks.{index}.mixer.in_proj.weight"
            found[target] = _delta_net(target, f"model.layers.{index}.linear_attn", layer.mixer)
    return list(found.values())


def layouts(config: ModelConfig) -> list[list[Rule]]:
    """All layouts: experts stored one by one or stacked, with or without the prefix."""
    single = rules(config)
    stacked = [_stacked(rule) if ".experts." in rule.target else rule for rule in single]
    unprefixed = (single, stacked)
    return [*unprefixed, *([_prefixed(rule) for rule in found] for found in unprefixed)]


def _delta_net(target: str, theirs: str, config: DeltaNetConfig) -> Rule:
    heads = config.num_value_heads
    sizes = (config.conv_channels, heads * config.value_dim, heads, heads)
    return Rule(target, tuple(f"{theirs}.in_proj_{name}.weight" for name in ("qkv", "z", "b", "a")), Concat(sizes))


def _stacked(rule: Rule) -> Rule:
    """All experts in one tensor, gate rows first, as in our network."""
    experts = rule.sources[0].partition(".experts.")[0] + ".experts."
    return Rule(rule.target, (experts + ("gate_up_proj" if "gate_up" in rule.target else "down_proj"),))


def _prefixed(rule: Rule) -> Rule:
    sources = tuple(
        f"model.language_model.{name.removeprefix('model.')}" if name.startswith("model.") else name
        for name in rule.sources
    )
    return replace(rule, sources=sources)
