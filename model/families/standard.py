"""What most families share: the config keys and tensor names of Llama checkpoints.

A family that differs replaces the part; no function here depends on which family calls it. `ours` and `theirs` are
prefixes of our parameter names and of the checkpoint's tensor names.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from model.checkpoints.reader import CheckpointError
from model.checkpoints.rules import Concat, PairedHeads, RotaryPairs, Rule, Same, Stack
from model.config import (
    AttentionConfig,
    GatedMLPConfig,
    LayerConfig,
    MixerConfig,
    ModelConfig,
    MoEConfig,
    NormConfig,
)
from model.families import rope

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
    require(hf, is_causal=True)
    return ModelConfig(
        hf["vocab_size"],
        hf["hidden_size"],
        tuple(layers),
        rope.max_positions(hf),
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
        rope.rotary(hf, head_dim),
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
