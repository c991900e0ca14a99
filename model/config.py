"""The network as a tree of frozen configs: a variant is a different sub-config, never a flag on the whole model.

A config that no network can have raises ValueError: kernels take the shapes as they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class NormConfig:
    """x / rms(x) * (offset + weight): an offset of 1 makes a weight of zero the identity."""

    eps: float = 1e-6
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Positions divided by a factor."""

    factor: float


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Long wavelengths divided by a factor, short ones kept, a ramp between (Llama 3.1)."""

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_positions: int


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN (arXiv 2309.00071): a ramp over frequencies; cosines and sines times `attention_factor`."""

    factor: float
    original_positions: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True  # round the ends of the ramp to whole dimensions


RotaryScaling = LinearScaling | Llama3Scaling | YarnScaling


@dataclass(frozen=True, slots=True)
class RotaryConfig:
    """Rotary positions on the first `dim` coordinates of each head, the rotate-half layout."""

    dim: int
    theta: float = 10_000.0
    scaling: RotaryScaling | None = None

    def __post_init__(self) -> None:
        if self.dim < 2 or self.dim % 2:
            raise ValueError(f"rotary positions on {self.dim} coordinates of a head: an even number is needed")


@dataclass(frozen=True, slots=True)
class AttentionConfig:
    """Grouped-query attention. `window`: how many tokens a token sees, itself included (None: all before it)."""

    title: ClassVar[str] = "attention"
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rotary: RotaryConfig | None  # None: no positions
    qk_norm: NormConfig | None = None
    qk_norm_per_head: bool = True  # each head on its own, or all of them as one vector
    output_gate: bool = False  # a sigmoid of the input times the output
    window: int | None = None
    sinks: bool = False  # a learnt score per head that takes part in the softmax and adds nothing
    scale: float | None = None  # of the scores; None: head_dim ** -0.5
    input_bias: bool = False
    output_bias: bool = False

    def __post_init__(self) -> None:
        _check_shared(self.num_heads, "query heads", self.num_kv_heads, "heads of keys and values")
        if self.rotary is not None and self.rotary.dim > self.head_dim:
            raise ValueError(f"rotary positions on {self.rotary.dim} coordinates of heads that have {self.head_dim}")


@dataclass(frozen=True, slots=True)
class LatentAttentionConfig:
    """Multi-head latent attention: keys and values of all heads from one small, remembered vector per token."""

    title: ClassVar[str] = "latent attention"
    num_heads: int
    q_lora_rank: int | None  # None: queries straight from the hidden state
    kv_lora_rank: int
    nope_head_dim: int  # coordinates of a key without position
    value_dim: int
    rotary: RotaryConfig  # on `rotary.dim` more coordinates, shared by all heads
    norm: NormConfig
    scale: float


@dataclass(frozen=True, slots=True)
class DeltaNetConfig:
    """Gated DeltaNet: a matrix state per value head, written by the delta rule, forgotten by a learned decay."""

    title: ClassVar[str] = "gated delta net"
    num_key_heads: int
    num_value_heads: int
    key_dim: int
    value_dim: int
    conv_width: int = 4
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        _check_shared(self.num_value_heads, "value heads", self.num_key_heads, "key heads")

    @property
    def conv_channels(self) -> int:
        """Channels that pass the short convolution: queries, keys and values."""
        return 2 * self.num_key_heads * self.key_dim + self.num_value_heads * self.value_dim


@dataclass(frozen=True, slots=True)
class Mamba2Config:
    """Mamba-2: a matrix state per head, a scalar decay per head and token; `num_groups` share keys and queries."""

    title: ClassVar[str] = "Mamba-2"
    num_heads: int
    head_dim: int
    num_groups: int
    state_dim: int
    conv_width: int = 4
    conv_bias: bool = True
    projection_bias: bool = False
    time_step_limit: tuple[float, float] = (0.0, float("inf"))
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        _check_shared(self.num_heads, "heads", self.num_groups, "groups")

    @property
    def width(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def conv_channels(self) -> int:
        """Channels that pass the short convolution: values, keys and queries."""
        return self.width + 2 * self.num_groups * self.state_dim


@dataclass(frozen=True, slots=True)
class ShortConvConfig:
    """A gated short convolution: out = c * conv(b * x), with b, c and x from the hidden state."""

    title: ClassVar[str] = "short convolution"
    conv_width: int
    bias: bool = False


# each says by its title what it is to a person
MixerConfig = AttentionConfig | LatentAttentionConfig | DeltaNetConfig | Mamba2Config | ShortConvConfig


@dataclass(frozen=True, slots=True)
class GroupLimit:
    """Choose experts only from the `top_groups` best of `num_groups` equal groups.

    A group is worth the sum of its `best_of` highest scores.
    """

    num_groups: int
    top_groups: int
    best_of: int


@dataclass(frozen=True, slots=True)
class SoftmaxTopKConfig:
    """Softmax over all experts, then the k likeliest. `renormalize` makes the k gates sum to `scale`."""

    top_k: int
    renormalize: bool = True
    scale: float = 1.0
    groups: GroupLimit | None = None


@dataclass(frozen=True, slots=True)
class TopKSoftmaxConfig:
    """The k highest scores, then a softmax over these alone."""

    top_k: int


@dataclass(frozen=True, slots=True)
class SigmoidBiasConfig:
    """Sigmoid scores; a bias, moved by the load alone, takes part in the choice but not in the gate."""

    top_k: int
    renormalize: bool = True
    scale: float = 1.0
    groups: GroupLimit | None = None
    bias_rate: float = 1e-3
    epsilon: float = 1e-20  # added to the sum that renormalizes


@dataclass(frozen=True, slots=True)
class HashConfig:
    """Experts fixed by the token's id: nothing is learnt. The honest baseline."""

    top_k: int


@dataclass(frozen=True, slots=True)
class ExpertThresholdConfig:
    """Each expert takes every token above its own threshold; `mean_k` experts per token on average in training."""

    mean_k: int
    ema: float = 0.99


@dataclass(frozen=True, slots=True)
class ReluConfig:
    """A positive score is a gate, of weight zero otherwise; `mean_k` experts per token on average in training.

    What leads there is a penalty on the gates: it starts at `penalty`, is multiplied after every step by at most
    `growth` and at least its inverse, and never falls below `least`.
    """

    mean_k: int
    penalty: float = 1e-8
    growth: float = 1.2
    least: float = 1e-8


@dataclass(frozen=True, slots=True)
class TopPConfig:
    """The likeliest experts that together reach a probability; `mean_k` experts per token on average in training.

    After every step that probability moves by `rate` for every expert too many or too few. `entropy_weight` is what an
    undecided router costs.
    """

    mean_k: int
    rate: float = 0.02
    entropy_weight: float = 1e-4


RouterConfig = (
    SoftmaxTopKConfig
    | TopKSoftmaxConfig
    | SigmoidBiasConfig
    | HashConfig
    | ExpertThresholdConfig
    | ReluConfig
    | TopPConfig
)


@dataclass(frozen=True, slots=True)
class SwiGLU:
    """silu(gate) * up."""


@dataclass(frozen=True, slots=True)
class ClampedSwiGLU:
    """gate * sigmoid(alpha * gate) * (up + 1), with gate <= limit and |up| <= limit (gpt-oss)."""

    alpha: float = 1.702
    limit: float = 7.0


ActivationConfig = SwiGLU | ClampedSwiGLU


@dataclass(frozen=True, slots=True)
class GatedMLPConfig:
    """A gated feed-forward that every token passes."""

    width: int


@dataclass(frozen=True, slots=True)
class SharedExpertConfig:
    """An expert that every token passes beside the routed ones; `gated`: times a sigmoid of the input."""

    width: int
    gated: bool = False


@dataclass(frozen=True, slots=True)
class MoEConfig:
    """A router, its experts, and a shared expert where there is one. `bias`: in the router and in the experts."""

    router: RouterConfig
    num_experts: int
    expert_width: int
    shared: SharedExpertConfig | None = None
    activation: ActivationConfig = SwiGLU()
    bias: bool = False


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """One block: a token mixer, then a feed-forward."""

    mixer: MixerConfig
    feed_forward: GatedMLPConfig | MoEConfig


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A whole network. `max_positions` is the longest sequence (prompt and output) in tokens.

    The scales multiply the embeddings, what each half of a block adds, and the logits.
    """

    vocab_size: int
    hidden_size: int
    layers: tuple[LayerConfig, ...]
    max_positions: int
    norm: NormConfig = NormConfig()
    tie_word_embeddings: bool = False  # the head's weights are the embedding's
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logits_scale: float = 1.0

    def moe_layers(self) -> Iterator[tuple[int, MoEConfig]]:
        """The layers with experts, with their index in the network."""
        for index, layer in enumerate(self.layers):
            if isinstance(layer.feed_forward, MoEConfig):
                yield index, layer.feed_forward


def _check_shared(many: int, name: str, few: int, of_few: str) -> None:
    """Every one of the few serves equally many."""
    if few < 1 or many < 1 or many % few:
        raise ValueError(f"{many} {name} cannot share {few} {of_few}: the one must be a multiple of the other")


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
    """The bundled shape: `attention_every - 1` delta-net layers, then one attention layer, all with experts."""
    norm = NormConfig(offset=1.0)
    rotary = RotaryConfig(head_dim // 4)
    attention = AttentionConfig(num_heads, num_kv_heads, head_dim, rotary, qk_norm=norm, output_gate=True)
    delta_net = DeltaNetConfig(num_heads, num_heads, head_dim, head_dim)
    moe = MoEConfig(router, num_experts, expert_width, SharedExpertConfig(shared_width, gated=True))
    layers = tuple(
        LayerConfig(attention if (index + 1) % attention_every == 0 else delta_net, moe) for index in range(num_layers)
    )
    return ModelConfig(vocab_size, hidden_size, layers, max_positions, norm)
