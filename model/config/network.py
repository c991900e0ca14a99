"""Layers and whole networks."""

from collections.abc import Iterator
from dataclasses import dataclass

from model.config.feed_forward import GatedMLPConfig, MoEConfig, SharedExpertConfig
from model.config.mixers import AttentionConfig, DeltaNetConfig, MixerConfig, QKNormConfig
from model.config.norm import LayerNormConfig, NormConfig, NormPlacement
from model.config.rotary import RotaryConfig
from model.config.routers import RouterConfig, SoftmaxTopKConfig


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """One block: a token mixer and, unless it is None, a feed-forward."""

    mixer: MixerConfig
    feed_forward: GatedMLPConfig | MoEConfig | None
    norms: NormPlacement = NormPlacement.PRE

    def __post_init__(self) -> None:
        if isinstance(self.feed_forward, GatedMLPConfig):
            _check_width("a feed-forward", self.feed_forward.width, "intermediate_size or shared_intermediate_size")
        if isinstance(self.feed_forward, MoEConfig):
            _check_width("experts", self.feed_forward.expert_width, "moe_intermediate_size or intermediate_size")


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


def _check_width(what: str, width: int, keys: str) -> None:
    if width < 1:
        raise ValueError(f"{what} of width {width} ({keys}): it must be positive")
