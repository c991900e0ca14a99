"""The network as a tree of frozen configs. A variant is a different sub-config, never a flag on the whole model.

Impossible shapes raise ValueError here, because kernels do not check them.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class NormConfig:
    """x / rms(x) * (offset + weight). With an offset of 1, a weight of zero is the identity."""

    eps: float = 1e-6
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Divide all positions by `factor`."""

    factor: float


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3.1: divide low frequencies by `factor`, keep high ones, interpolate between."""

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_positions: int


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN (arXiv 2309.00071): interpolate by frequency, multiply cosines and sines by `attention_factor`."""

    factor: float
    original_positions: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True  # round the ends of the interpolated range to whole dimensions


@dataclass(frozen=True, slots=True)
class FrequencyFactors:
    """Divide each frequency by a factor of its own (LongRoPE, arXiv 2402.13753); multiply cosines and sines."""

    factors: tuple[float, ...]
    attention_factor: float = 1.0


RotaryScaling = LinearScaling | Llama3Scaling | YarnScaling | FrequencyFactors


@dataclass(frozen=True, slots=True)
class RotaryConfig:
    """Rotary position embedding on the first `dim` coordinates of each head, in the rotate-half layout."""

    dim: int
    theta: float = 10_000.0
    scaling: RotaryScaling | None = None

    def __post_init__(self) -> None:
        if self.dim < 2 or self.dim % 2:
            raise ValueError(f"rotary positions on {self.dim} coordinates of a head: the number must be even")
        if isinstance(self.scaling, FrequencyFactors) and len(self.scaling.factors) != self.dim // 2:
            raise ValueError(f"{len(self.scaling.factors)} factors for {self.dim // 2} rotary frequencies")


@dataclass(frozen=True, slots=True)
class AttentionConfig:
    """Grouped-query attention. `window`: how many tokens each token attends to, itself included (None: all)."""

    title: ClassVar[str] = "attention"
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rotary: RotaryConfig | None  # None: no position embedding
    qk_norm: NormConfig | None = None
    qk_norm_per_head: bool = True  # normalize each head, or all heads as one vector
    output_gate: bool = False  # multiply the output by a sigmoid gate of the input
    window: int | None = None
    sinks: bool = False  # a learned logit per head that takes part in the softmax, with a value of zero
    scale: float | None = None  # of the attention scores; None: head_dim ** -0.5
    input_bias: bool = False
    output_bias: bool = False

    def __post_init__(self) -> None:
        _check_multiple(self.num_heads, "query heads", self.num_kv_heads, "key/value heads")
        if self.rotary is not None and self.rotary.dim > self.head_dim:
            raise ValueError(f"rotary positions on {self.rotary.dim} coordinates of heads that have {self.head_dim}")


@dataclass(frozen=True, slots=True)
class LatentAttentionConfig:
    """Multi-head latent attention (MLA): one small cached vector per token gives the keys and values of all heads."""

    title: ClassVar[str] = "latent attention"
    num_heads: int
    q_lora_rank: int | None  # None: a single query projection
    kv_lora_rank: int
    nope_head_dim: int  # coordinates of a query or key without position embedding
    value_dim: int
    rotary: RotaryConfig  # on `rotary.dim` further coordinates; the keys share these
    norm: NormConfig
    scale: float


@dataclass(frozen=True, slots=True)
class DeltaNetConfig:
    """Gated DeltaNet: a matrix state per value head, updated by the delta rule, with a learned decay."""

    title: ClassVar[str] = "gated delta net"
    num_key_heads: int
    num_value_heads: int
    key_dim: int
    value_dim: int
    conv_width: int = 4
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        _check_multiple(self.num_value_heads, "value heads", self.num_key_heads, "key heads")

    @property
    def conv_channels(self) -> int:
        """Channels of the short convolution: queries, keys and values."""
        return 2 * self.num_key_heads * self.key_dim + self.num_value_heads * self.value_dim


@dataclass(frozen=True, slots=True)
class Mamba2Config:
    """Mamba-2: a matrix state per head with a scalar decay; heads of a group share B and C (keys and queries)."""

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
        _check_multiple(self.num_heads, "heads", self.num_groups, "groups")

    @property
    def width(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def conv_channels(self) -> int:
        """Channels of the short convolution: values, keys and queries."""
        return self.width + 2 * self.num_groups * self.state_dim


@dataclass(frozen=True, slots=True)
class ShortConvConfig:
    """A gated short convolution: out = c * conv(b * x), with b, c and x from the hidden state."""

    title: ClassVar[str] = "short convolution"
    conv_width: int
    bias: bool = False


# `title` is the name of the mixer in messages and in `routelm inspect`
MixerConfig = AttentionConfig | LatentAttentionConfig | DeltaNetConfig | Mamba2Config | ShortConvConfig


@dataclass(frozen=True, slots=True)
class GroupLimit:
    """Choose experts only from the `top_groups` best of `num_groups` equal groups.

    The score of a group is the sum of its `best_of` highest expert scores.
    """

    num_groups: int
    top_groups: int
    best_of: int


@dataclass(frozen=True, slots=True)
class SoftmaxTopKConfig:
    """Softmax over all experts, then the top k. `renormalize` makes their weights sum to `scale`."""

    top_k: int
    renormalize: bool = True
    scale: float = 1.0
    groups: GroupLimit | None = None


@dataclass(frozen=True, slots=True)
class TopKSoftmaxConfig:
    """The top k router logits, then a softmax over these alone."""

    top_k: int


@dataclass(frozen=True, slots=True)
class SigmoidBiasConfig:
    """Top k of sigmoid scores plus a bias that balances the load and is not part of the weights."""

    top_k: int
    renormalize: bool = True
    scale: float = 1.0
    groups: GroupLimit | None = None
    bias_rate: float = 1e-3
    epsilon: float = 1e-20  # added to the denominator of the renormalization


@dataclass(frozen=True, slots=True)
class HashConfig:
    """Experts chosen by hashing the token id. Nothing is learned: a baseline."""

    top_k: int


@dataclass(frozen=True, slots=True)
class ExpertThresholdConfig:
    """Each expert takes all tokens above its threshold; training aims for `mean_k` experts per token on average."""

    mean_k: int
    ema: float = 0.99


@dataclass(frozen=True, slots=True)
class ReluConfig:
    """ReLU of the router logits as weights; training aims for `mean_k` experts per token on average.

    To get there, the weights are penalized. The coefficient starts at `penalty`; after every step it is multiplied by a
    factor between 1 / `growth` and `growth`, and it never falls below `least`.
    """

    mean_k: int
    penalty: float = 1e-8
    growth: float = 1.2
    least: float = 1e-8


@dataclass(frozen=True, slots=True)
class TopPConfig:
    """The most probable experts up to a total probability p; training aims for `mean_k` experts per token on average.

    After every step p changes by `rate` for every expert per token too many or too few. `entropy_weight` is the
    coefficient of the entropy loss.
    """

    mean_k: int
    rate: float = 0.02
    entropy_weight: float = 1e-4


FixedKConfig = SoftmaxTopKConfig | TopKSoftmaxConfig | SigmoidBiasConfig | HashConfig  # `top_k` experts per token
RouterConfig = FixedKConfig | ExpertThresholdConfig | ReluConfig | TopPConfig


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
    """A gated MLP with SiLU."""

    width: int


@dataclass(frozen=True, slots=True)
class SharedExpertConfig:
    """A shared expert, which processes every token. `gated`: multiply its output by a sigmoid gate of the input."""

    width: int
    gated: bool = False


@dataclass(frozen=True, slots=True)
class MoEConfig:
    """A mixture of experts. `bias`: the router and the experts have biases."""

    router: RouterConfig
    num_experts: int
    expert_width: int
    shared: SharedExpertConfig | None = None
    activation: ActivationConfig = SwiGLU()
    bias: bool = False


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """One block: a token mixer and a feed-forward."""

    mixer: MixerConfig
    feed_forward: GatedMLPConfig | MoEConfig


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A whole network. `max_positions` is the longest sequence (prompt and output) in tokens.

    The scales multiply the embeddings, the output of each mixer and feed-forward, and the logits.
    """

    vocab_size: int
    hidden_size: int
    layers: tuple[LayerConfig, ...]
    max_positions: int
    norm: NormConfig = NormConfig()
    tie_word_embeddings: bool = False  # the head shares the weights of the embedding
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logits_scale: float = 1.0

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
    groups = getattr(moe.router, "groups", None)
    return moe.num_experts if groups is None else moe.num_experts // groups.num_groups * groups.top_groups


def _with_top_k(layer: LayerConfig, k: int) -> LayerConfig:
    moe = layer.feed_forward
    if not isinstance(moe, MoEConfig):
        return layer
    assert isinstance(moe.router, FixedKConfig)
    return replace(layer, feed_forward=replace(moe, router=replace(moe.router, top_k=k)))


def _check_multiple(number: int, name: str, divisor: int, divisor_name: str) -> None:
    if divisor < 1 or number < 1 or number % divisor:
        raise ValueError(
            f"{number} {name} cannot share {divisor} {divisor_name}: the first must be a multiple of the second"
        )


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
    attention = AttentionConfig(num_heads, num_kv_heads, head_dim, rotary, qk_norm=norm, output_gate=True)
    delta_net = DeltaNetConfig(num_heads, num_heads, head_dim, head_dim)
    moe = MoEConfig(router, num_experts, expert_width, SharedExpertConfig(shared_width, gated=True))
    layers = tuple(
        LayerConfig(attention if (index + 1) % attention_every == 0 else delta_net, moe) for index in range(num_layers)
    )
    return ModelConfig(vocab_size, hidden_size, layers, max_positions, norm)
