"""Layers and whole networks."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from model.config.feed_forward import GatedMLPConfig, MoEConfig, SharedExpertConfig
from model.config.mixers import AttentionConfig, DeltaNetConfig, MixerConfig, QKNormConfig
from model.config.norm import LayerNormConfig, NormConfig, NormPlacement
from model.config.rotary import RotaryConfig
from model.config.routers import FixedKConfig, HashConfig, RouterConfig, SoftmaxTopKConfig, SparseMixerConfig


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """One block: a token mixer and, unless it is None, a feed-forward."""

    mixer: MixerConfig
    feed_forward: GatedMLPConfig | MoEConfig | None
    norms: NormPlacement = NormPlacement.PRE


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A whole network. `max_positions` is the longest sequence (prompt and output) in tokens.

    The scales multiply the embeddings, the output of each mixer and feed-forward, and the logits.
    """

    vocab_size: int
    hidden_size: int
    layers: tuple[LayerConfig, ...]
    max_positions: int
    norm: NormConfig | LayerNormConfig = NormConfig()
    tie_word_embeddings: bool = False  # the head shares the weights of the embedding
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logits_scale: float = 1.0
    head_bias: bool = False

    def moe_layers(self) -> Iterator[tuple[int, MoEConfig]]:
        """The index and the config of every layer with experts."""
        for index, layer in enumerate(self.layers):
            if isinstance(layer.feed_forward, MoEConfig):
                yield index, layer.feed_forward


def with_experts_per_token(config: ModelConfig, k: int) -> ModelConfig:
    """The same network with `k` experts per token in every MoE layer; its weights fit both.

    Raises ValueError where a layer cannot choose that many, where the routers choose a varying number by themselves,
    and for a network without experts.
    """
    check_experts_per_token(config, k)
    return replace(config, layers=tuple(_with_top_k(layer, k) for layer in config.layers))


def check_experts_per_token(config: ModelConfig, k: int) -> None:
    """Raise ValueError unless every MoE layer of the network can send each token to `k` experts."""
    layers = [moe for _, moe in config.moe_layers()]
    for moe in layers:
        if not isinstance(moe.router, FixedKConfig):
            kind = type(moe.router).__name__.removesuffix("Config")
            raise ValueError(f"experts_per_token is {k}: a {kind} router chooses the number itself; leave it out")
    largest = min(map(_max_top_k, layers), default=0)
    if not 1 <= k <= largest:
        allowed = f"1 to {largest}" if layers else "a model with experts"
        raise ValueError(f"experts_per_token is {k}: this takes {allowed}")


def check_masked_experts(config: ModelConfig, masked: Mapping[int, Collection[int]], k: int | None = None) -> None:
    """Raise ValueError unless each MoE layer has enough experts without those `masked` by layer for `k` per token."""
    layers = dict(config.moe_layers())
    if masked and not layers:
        raise ValueError("a model without experts takes no mask_experts; leave it out")
    for layer, experts in masked.items():
        moe = layers.get(layer)
        if moe is None:
            raise ValueError(f"mask_experts names layer {layer}: those with experts are {', '.join(map(str, layers))}")
        if isinstance(moe.router, HashConfig):
            raise ValueError("mask_experts: a hash router does not look at scores; leave it out")
        wrong = next((expert for expert in experts if not 0 <= expert < moe.num_experts), None)
        if wrong is not None:
            raise ValueError(
                f"mask_experts names expert {wrong} of layer {layer}: there are 0 to {moe.num_experts - 1}"
            )
        needed = (k or moe.router.top_k) if isinstance(moe.router, FixedKConfig) else 1
        if moe.num_experts - len(set(experts)) < needed:
            raise ValueError(f"mask_experts leaves too few experts in layer {layer}: a token needs {needed}")


def _max_top_k(moe: MoEConfig) -> int:
    if isinstance(moe.router, SparseMixerConfig):
        return 2
    groups = getattr(moe.router, "groups", None)
    return moe.num_experts if groups is None else moe.num_experts // groups.num_groups * groups.top_groups


def _with_top_k(layer: LayerConfig, k: int) -> LayerConfig:
    moe = layer.feed_forward
    if not isinstance(moe, MoEConfig):
        return layer
    assert isinstance(moe.router, FixedKConfig)
    return replace(layer, feed_forward=replace(moe, router=replace(moe.router, top_k=k)))


def hybrid_config(
    *,
    hidden_size: int = 256,
    num_layers: int = 8,
    attention_every: int = 4,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    head_dim: int = 64,
    num_experts: int = 16,
    router: RouterConfig = SoftmaxTopKConfig(top_k=2),
    expert_width: int = 128,
    shared_width: int = 128,
    vocab_size: int = 7680,
    max_positions: int = 4096,
) -> ModelConfig:
    """The shape of the bundled model: `attention_every - 1` DeltaNet layers, then one attention layer, all MoE."""
    norm = NormConfig(offset=1.0)
    rotary = RotaryConfig(head_dim // 4)
    attention = AttentionConfig(num_heads, num_kv_heads, head_dim, rotary, qk_norm=QKNormConfig(norm), output_gate=True)
    delta_net = DeltaNetConfig(num_heads, num_heads, head_dim, head_dim)
    moe = MoEConfig(router, num_experts, expert_width, SharedExpertConfig(shared_width, gated=True))
    layers = tuple(
        LayerConfig(attention if (index + 1) % attention_every == 0 else delta_net, moe) for index in range(num_layers)
    )
    return ModelConfig(vocab_size, hidden_size, layers, max_positions, norm, tie_word_embeddings=True)
