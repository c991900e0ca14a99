"""What most families share: the config keys and tensor names of Llama checkpoints.

A family that differs replaces the part; no function here depends on which family calls it. `ours` and `theirs` are
prefixes of our parameter names and of the checkpoint's tensor names.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from model.checkpoints.reader import CheckpointError
from model.checkpoints.rules import Concat, PairedHeads, RotaryPairs, Rule, Same, Stack
from model.config import (
    AttentionConfig,
    FrequencyFactors,
    GatedMLPConfig,
    LayerConfig,
    LinearScaling,
    Llama3Scaling,
    MixerConfig,
    ModelConfig,
    MoEConfig,
    NormConfig,
    RotaryConfig,
    RotaryScaling,
    YarnScaling,
)

HfConfig = Mapping[str, Any]
PartRules = Callable[[str, str, Any, int], list[Rule]]  # our prefix, theirs, the config, hidden width
T = TypeVar("T")


def require(hf: HfConfig, **supported: Any) -> None:
    """Raise CheckpointError if a key has another value than the supported one; it may be absent."""
    for key, value in supported.items():
        if hf.get(key, value) != value:
            raise CheckpointError(f"{key} is {hf[key]!r}: only {value!r} is supported for {hf.get('model_type')}")


def decoder(hf: HfConfig, layers: Sequence[LayerConfig]) -> ModelConfig:
    """A network of these layers, with the vocabulary, width, context length and norms of a Llama config."""
    return ModelConfig(
        hf["vocab_size"],
        hf["hidden_size"],
        tuple(layers),
        _max_positions(hf),
        norm(hf),
        tie_word_embeddings=hf.get("tie_word_embeddings", False),
    )


def paired_layers(
    mixers: Sequence[MixerConfig], feed_forwards: Sequence[GatedMLPConfig | MoEConfig]
) -> list[LayerConfig]:
    """One layer of each mixer and each feed-forward. CheckpointError if there are not as many of both."""
    if len(mixers) != len(feed_forwards):
        raise CheckpointError(
            f"config.json describes {len(mixers)} mixers and {len(feed_forwards)} feed-forwards: "
            "lists of layer types need num_hidden_layers entries"
        )
    return [LayerConfig(*parts) for parts in zip(mixers, feed_forwards, strict=True)]


def norm(hf: HfConfig) -> NormConfig:
    return NormConfig(hf.get("rms_norm_eps", 1e-6))


def attention(hf: HfConfig) -> AttentionConfig:
    """Grouped-query attention as in Llama. Other families apply `dataclasses.replace` to it."""
    num_heads, bias = hf["num_attention_heads"], hf.get("attention_bias", False)
    head_dim = hf.get("head_dim") or hf["hidden_size"] // num_heads
    return AttentionConfig(
        num_heads,
        hf.get("num_key_value_heads") or num_heads,
        head_dim,
        rotary(hf, head_dim),
        input_bias=bias,
        output_bias=bias,
    )


def layer_windows(hf: HfConfig, slides: Callable[[int], bool], *, default: int | None = 4096) -> list[int | None]:
    """The window of each layer, by `layer_types` or, without these, by `slides(index)`.

    `default`: the window of the family.

    Raises CheckpointError for an unknown layer type, and for sliding layers without a window size.
    """
    window = hf.get("sliding_window", default) if hf.get("use_sliding_window") else None
    kinds = hf.get("layer_types") or [
        "sliding_attention" if window and slides(index) else "full_attention"
        for index in range(hf["num_hidden_layers"])
    ]
    return of_kinds(kinds, {"full_attention": None} | ({"sliding_attention": window} if window else {}))


def every_nth_full(hf: HfConfig, interval: int) -> list[str]:
    """Layer types where every `interval`-th layer has full attention and the others a window."""
    return [
        "sliding_attention" if (index + 1) % interval else "full_attention" for index in range(hf["num_hidden_layers"])
    ]


def of_kinds(kinds: Sequence[str], known: Mapping[str, T]) -> list[T]:
    """The entry of `known` for the type of each layer. CheckpointError for an unknown type."""
    for kind in kinds:
        if kind not in known:
            raise CheckpointError(f"layer_types names {kind!r}: with this config.json only {', '.join(known)} can be")
    return [known[kind] for kind in kinds]


def is_moe_layer(hf: HfConfig, index: int) -> bool:
    """Whether a layer has experts: every `decoder_sparse_step`-th one does, except for `mlp_only_layers`."""
    dense_layers = hf.get("mlp_only_layers") or []
    return index not in dense_layers and (index + 1) % hf.get("decoder_sparse_step", 1) == 0


def rotary(hf: HfConfig, head_dim: int, *, theta: float = 10_000.0, partial: float = 1.0) -> RotaryConfig:
    """Rotary settings of newer configs (`rope_parameters`) and of older ones (`rope_theta`, `rope_scaling`).

    `theta` and `partial` are the defaults of the family. Raises CheckpointError for an unknown kind of scaling.
    """
    rope = rope_parameters(hf)
    theta = float(rope.get("rope_theta") or hf.get("rope_theta") or theta)
    partial = rope.get("partial_rotary_factor") or hf.get("partial_rotary_factor") or partial
    return RotaryConfig(int(head_dim * partial), theta, _scaling(rope, hf))


def of_layer_type(hf: HfConfig, kind: str) -> dict[str, Any]:
    """The config with the rotary settings of one layer type, where `rope_parameters` has some for each type.

    Older configs scale full attention only.
    """
    rope = hf.get("rope_parameters") or {}
    nested = rope.get(kind) if any(isinstance(value, Mapping) for value in rope.values()) else rope
    scaling = hf.get("rope_scaling") if kind == "full_attention" else None
    return {**hf, "rope_parameters": nested or {}, "rope_scaling": scaling}


def rope_parameters(hf: HfConfig) -> HfConfig:
    """The rotary settings. The older key has priority, as in transformers."""
    return hf.get("rope_scaling") or hf.get("rope_parameters") or {}


def _max_positions(hf: HfConfig) -> int:
    """The context length. With YaRN it is at least the extended one, because configs often only set the scaling."""
    scaling, positions = _scaling(rope_parameters(hf), hf), int(hf["max_position_embeddings"])
    if isinstance(scaling, YarnScaling):
        return max(positions, int(scaling.factor * scaling.original_positions))
    return positions


def _scaling(rope: HfConfig, hf: HfConfig) -> RotaryScaling | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind in ("default", "dynamic"):  # dynamic NTK changes nothing up to the context length, and we stay below
        return None
    if kind == "linear":
        return LinearScaling(rope["factor"])
    if kind == "frequency_factors":  # of GGUF files
        return FrequencyFactors(tuple(rope["factors"]))
    original = rope.get("original_max_position_embeddings") or hf["max_position_embeddings"]
    if kind in ("longrope", "su"):
        return _longrope(rope, hf)
    if kind == "llama3":
        return Llama3Scaling(rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"], original)
    if kind == "yarn":
        fast, slow = rope.get("beta_fast") or 32, rope.get("beta_slow") or 1
        return YarnScaling(
            rope["factor"], original, _yarn_magnitude(rope), float(fast), float(slow), rope.get("truncate", True)
        )
    raise CheckpointError(
        f"rope type {kind!r} is not known; known are: default, linear, dynamic, llama3, yarn, longrope"
    )


def _longrope(rope: HfConfig, hf: HfConfig) -> FrequencyFactors:
    """LongRoPE (arXiv 2402.13753): factors for the original length, or others for a longer context.

    transformers chooses anew for every length. Here the context of the config decides for all lengths, because the
    keys of a sequence must not change while it grows.
    """
    longest, original = int(hf["max_position_embeddings"]), longrope_original(hf)
    factor = rope.get("factor") or longest / original
    magnitude = rope.get("attention_factor")
    if magnitude is None:
        magnitude = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return FrequencyFactors(tuple(rope["long_factor" if longest > original else "short_factor"]), float(magnitude))


def longrope_original(hf: HfConfig) -> int:
    """The context length before LongRoPE extended it."""
    key = "original_max_position_embeddings"
    return int(rope_parameters(hf).get(key) or hf.get(key) or hf["max_position_embeddings"])


def _yarn_magnitude(rope: HfConfig) -> float:
    """The factor of cosines and sines in YaRN (arXiv 2309.00071, section 3.4)."""
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return yarn_mscale(rope["factor"], rope["mscale"]) / yarn_mscale(rope["factor"], rope["mscale_all_dim"])
    return yarn_mscale(rope["factor"], 1.0)


def yarn_mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def attention_rules(
    ours: str,
    theirs: str,
    config: AttentionConfig,
    hidden_size: int,
    *,
    module: str = ".self_attn",
    out: str = "o_proj",
    norms: tuple[str, str] = ("q_norm", "k_norm"),
) -> list[Rule]:
    """Queries, keys and values from three tensors (and biases), the output projection, query and key norms."""
    assert not config.output_gate, "families with gated attention have rules of their own"
    theirs += module
    kv_width = config.num_kv_heads * config.head_dim
    merge = Concat((config.num_heads * config.head_dim, kv_width, kv_width))
    kinds = ("weight", "bias") if config.input_bias else ("weight",)
    found = [
        Rule(f"{ours}.in_proj.{kind}", tuple(f"{theirs}.{name}_proj.{kind}" for name in "qkv"), merge) for kind in kinds
    ]
    found.append(Rule(f"{ours}.out_proj.weight", (f"{theirs}.{out}.weight",)))
    if config.output_bias:
        found.append(Rule(f"{ours}.out_proj.bias", (f"{theirs}.{out}.bias",)))
    if config.qk_norm is not None:
        found += [
            Rule(f"{ours}.{norm}.weight", (f"{theirs}.{name}.weight",))
            for norm, name in zip(("q_norm", "k_norm"), norms, strict=True)
        ]
    return found


def paired_attention_rules(ours: str, theirs: str, config: AttentionConfig, hidden_size: int) -> list[Rule]:
    """The same where rotary coordinates are stored as neighbours."""
    assert config.rotary is not None
    rotated, rest = config.rotary.dim, config.head_dim - config.rotary.dim
    kv_heads, kv_width = config.num_kv_heads, config.num_kv_heads * config.head_dim
    queries, keys = PairedHeads(config.num_heads, 0, rotated, rest), PairedHeads(kv_heads, 0, rotated, rest)
    merge = RotaryPairs((queries, keys, PairedHeads(1, kv_width, 0)))
    found = attention_rules(ours, theirs, config, hidden_size)
    return [replace(rule, merge=merge) if ".in_proj." in rule.target else rule for rule in found]


def conv_rules(ours: str, theirs: str, channels: int, taps: int, *, bias: bool = False) -> list[Rule]:
    """A depthwise convolution, stored with an axis for its single input channel."""
    found = [Rule(f"{ours}.conv_weight", (f"{theirs}.weight",), Same((channels, 1, taps), (channels, taps)))]
    return [*found, Rule(f"{ours}.conv_bias", (f"{theirs}.bias",))] if bias else found


def gated_mlp_rules(
    ours: str, theirs: str, width: int, names: Sequence[str] = ("gate_proj", "up_proj", "down_proj")
) -> list[Rule]:
    """A gated MLP from three tensors."""
    gate, up, down = names
    return [
        Rule(f"{ours}.gate_up.weight", (f"{theirs}.{gate}.weight", f"{theirs}.{up}.weight"), Concat((width, width))),
        Rule(f"{ours}.down.weight", (f"{theirs}.{down}.weight",)),
    ]


def expert_rules(
    ours: str,
    theirs: str,
    *,
    experts: int,
    width: int,
    hidden_size: int,
    names: Sequence[str] = ("gate_proj", "up_proj", "down_proj"),
) -> list[Rule]:
    """Experts from three tensors each: `<theirs>.<expert>.<name>.weight`."""
    gate, up, down = names
    gate_up = tuple(f"{theirs}.{expert}.{name}.weight" for expert in range(experts) for name in (gate, up))
    downs = tuple(f"{theirs}.{expert}.{down}.weight" for expert in range(experts))
    return [
        Rule(f"{ours}.gate_up.weight", gate_up, Stack(experts, (width, width))),
        Rule(f"{ours}.down.weight", downs, Stack(experts, (hidden_size,))),
    ]


def moe_rules(ours: str, theirs: str, config: MoEConfig, hidden_size: int) -> list[Rule]:
    """A router, three tensors per expert, and optionally a gated shared expert, with the names of Qwen."""
    theirs += ".mlp"
    experts, width, shared = config.num_experts, config.expert_width, config.shared
    found = expert_rules(f"{ours}.experts", f"{theirs}.experts", experts=experts, width=width, hidden_size=hidden_size)
    if shared is None:
        return [Rule(f"{ours}.gate.weight", (f"{theirs}.gate.weight",)), *found]
    gates = (f"{theirs}.gate.weight", f"{theirs}.shared_expert_gate.weight")
    return [
        Rule(f"{ours}.gate.weight", gates, Concat((experts, 1))),
        *found,
        *gated_mlp_rules(f"{ours}.shared", f"{theirs}.shared_expert", shared.width),
    ]


def _mlp_rules(ours: str, theirs: str, config: GatedMLPConfig, hidden_size: int) -> list[Rule]:
    return gated_mlp_rules(ours, f"{theirs}.mlp", config.width)


# Names of the norms of a layer: ours to theirs.
PRE_NORMS = {"mixer_norm": "input_layernorm", "feed_forward_norm": "post_attention_layernorm"}
_PARTS: dict[type, PartRules] = {
    AttentionConfig: attention_rules,
    GatedMLPConfig: _mlp_rules,
    MoEConfig: moe_rules,
}


def decoder_rules(
    config: ModelConfig,
    parts: dict[type, PartRules] | None = None,
    *,
    norms: Mapping[str, str] = PRE_NORMS,
    final_norm: str = "norm",
) -> list[Rule]:
    """All rules of a checkpoint with the tensor names of Llama, and of Qwen for experts.

    `parts`: rules of mixers and feed-forwards that are stored differently, by the type of their config. `norms`: the
    norms of a layer, our names to theirs.
    """
    rules_of = _PARTS | (parts or {})
    found = _frame_rules(config, final_norm)
    for index, layer in enumerate(config.layers):
        ours, theirs = f"blocks.{index}", f"model.layers.{index}"
        found += [
            *(Rule(f"{ours}.{norm}.weight", (f"{theirs}.{name}.weight",)) for norm, name in norms.items()),
            *rules_of[type(layer.mixer)](f"{ours}.mixer", theirs, layer.mixer, config.hidden_size),
            *rules_of[type(layer.feed_forward)](f"{ours}.feed_forward", theirs, layer.feed_forward, config.hidden_size),
        ]
    return found


def _frame_rules(config: ModelConfig, final_norm: str) -> list[Rule]:
    """Embedding, final norm and head; a tied head has no tensor of its own."""
    found = [
        Rule("embedding.weight", ("model.embed_tokens.weight",)),
        Rule("norm.weight", (f"model.{final_norm}.weight",)),
    ]
    return found if config.tie_word_embeddings else [*found, Rule("head.weight", ("lm_head.weight",))]
