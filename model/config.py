"""The network as a tree of frozen configs: a variant is a different sub-config, never a flag on the whole model."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AttentionConfig:
    """Grouped-query attention with per-head query/key norms, partial rotary positions and an output gate."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    rotary_dim: int
    rope_theta: float = 10_000.0


@dataclass(frozen=True, slots=True)
class DeltaNetConfig:
    """Gated DeltaNet: a matrix state per value head, written by the delta rule, forgotten by a learned decay."""

    num_key_heads: int
    num_value_heads: int
    key_dim: int
    value_dim: int
    conv_width: int = 4

    @property
    def conv_channels(self) -> int:
        """Channels that pass the short convolution: queries, keys and values."""
        return 2 * self.num_key_heads * self.key_dim + self.num_value_heads * self.value_dim


@dataclass(frozen=True, slots=True)
class SoftmaxTopKConfig:
    """Softmax over all experts, then the k likeliest. `renormalize` makes the k gates sum to one."""

    top_k: int
    renormalize: bool = True


@dataclass(frozen=True, slots=True)
class SigmoidBiasConfig:
    """Sigmoid scores; a bias, moved by the load alone, takes part in the choice but not in the gate."""

    top_k: int
    scale: float = 1.0
    bias_rate: float = 1e-3


@dataclass(frozen=True, slots=True)
class HashConfig:
    """Experts fixed by the token's id: nothing is learnt. The honest baseline."""

    top_k: int


@dataclass(frozen=True, slots=True)
class ExpertThresholdConfig:
    """Each expert takes every token above its own threshold; `mean_k` experts per token on average in training."""

    mean_k: int
    ema: float = 0.99


RouterConfig = SoftmaxTopKConfig | SigmoidBiasConfig | HashConfig | ExpertThresholdConfig


@dataclass(frozen=True, slots=True)
class DenseConfig:
    """A gated feed-forward that every token passes."""

    width: int


@dataclass(frozen=True, slots=True)
class RoutedConfig:
    """A router, its experts, and one shared expert behind a sigmoid gate (`shared_width` 0: none)."""

    router: RouterConfig
    num_experts: int
    expert_width: int
    shared_width: int


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """One block: a token mixer, then a feed-forward."""

    mixer: AttentionConfig | DeltaNetConfig
    feed_forward: DenseConfig | RoutedConfig


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A whole network. `max_positions` is the longest sequence (prompt and output) in tokens."""

    vocab_size: int
    hidden_size: int
    layers: tuple[LayerConfig, ...]
    max_positions: int
    norm_eps: float = 1e-6

    def routed_layers(self) -> Iterator[tuple[int, RoutedConfig]]:
        """The layers with experts, with their index in the network."""
        for index, layer in enumerate(self.layers):
            if isinstance(layer.feed_forward, RoutedConfig):
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
    """The bundled shape: `attention_every - 1` delta-net layers, then one attention layer, all routed."""
    attention = AttentionConfig(num_heads, num_kv_heads, head_dim, rotary_dim=head_dim // 4)
    delta_net = DeltaNetConfig(num_heads, num_heads, head_dim, head_dim)
    routed = RoutedConfig(router, num_experts, expert_width, shared_width)
    layers = tuple(
        LayerConfig(attention if (index + 1) % attention_every == 0 else delta_net, routed)
        for index in range(num_layers)
    )
    return ModelConfig(vocab_size, hidden_size, layers, max_positions)
