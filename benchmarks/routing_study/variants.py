"""What is compared: routing algorithms that compute the same per token, and two networks without a router.

Equal terms are two experts of `expert_width` per token beside a shared one, of `num_experts`. Where the number varies
by token, two is the mean that training leads to; where it is one, experts are half as many and twice as wide.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from model.config import (
    ExpertThresholdConfig,
    GatedMLPConfig,
    HashConfig,
    ModelConfig,
    MoEConfig,
    ReluConfig,
    RouterConfig,
    SharedExpertConfig,
    SigmoidBiasConfig,
    SoftmaxTopKConfig,
    TopPConfig,
    hybrid_config,
)

EXPERTS_PER_TOKEN = 2


@dataclass(frozen=True, slots=True)
class Size:
    """The shape that all variants of a study have in common."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    num_experts: int
    expert_width: int
    shared_width: int
    dtype: str = "bfloat16"  # of the matrices in training

    @property
    def active_width(self) -> int:
        """Inner width of the feed-forward that a token passes."""
        return EXPERTS_PER_TOKEN * self.expert_width + self.shared_width

    @property
    def total_width(self) -> int:
        return self.num_experts * self.expert_width + self.shared_width


SIZES = {
    "XS": Size(128, 4, 2, 1, num_experts=16, expert_width=128, shared_width=64),
    "S": Size(256, 8, 4, 2, num_experts=16, expert_width=128, shared_width=128),
}

FeedForward = Callable[[Size], GatedMLPConfig | MoEConfig]


@dataclass(frozen=True, slots=True)
class Variant:
    """One row of the comparison. `z_weight` is the weight of the z-loss, which only a softmax over scores needs."""

    name: str  # of its directories
    title: str
    feed_forward: FeedForward
    z_weight: float = 0.0


def variant_named(name: str) -> Variant:
    """ValueError lists the names."""
    if name not in VARIANTS:
        raise ValueError(f"there is no variant {name!r}; there are: {', '.join(VARIANTS)}")
    return VARIANTS[name]


def model_of(variant: Variant, size: Size, vocab_size: int) -> ModelConfig:
    """The whole network of a variant."""
    shape = hybrid_config(
        hidden_size=size.hidden_size,
        num_layers=size.num_layers,
        num_heads=size.num_heads,
        num_kv_heads=size.num_kv_heads,
        vocab_size=vocab_size,
        max_positions=1024,
    )
    feed_forward = variant.feed_forward(size)
    return replace(shape, layers=tuple(replace(layer, feed_forward=feed_forward) for layer in shape.layers))


def _experts(router: RouterConfig) -> FeedForward:
    def feed_forward(size: Size) -> MoEConfig:
        return MoEConfig(router, size.num_experts, size.expert_width, SharedExpertConfig(size.shared_width, gated=True))

    return feed_forward


def _one_wide_expert(size: Size) -> MoEConfig:
    """Without renormalization: the gate would always be 1, and the router would learn nothing (arXiv 2101.03961)."""
    router = SoftmaxTopKConfig(1, renormalize=False)
    experts, width = size.num_experts // EXPERTS_PER_TOKEN, EXPERTS_PER_TOKEN * size.expert_width
    return MoEConfig(router, experts, width, SharedExpertConfig(size.shared_width, gated=True))


_TWO = EXPERTS_PER_TOKEN
_SOFTMAX_Z = 1e-3
# What follows the load has some hundreds of steps here, in the papers tens of thousands: thresholds follow faster; the
# penalty starts where it begins to work (theirs: 1e-8) and grows more slowly (theirs: by 1.2), so as not to overshoot.
_ALL = (
    Variant("softmax-top-2", "softmax top-2", _experts(SoftmaxTopKConfig(_TWO)), _SOFTMAX_Z),
    Variant("sigmoid-bias", "sigmoid + bias top-2", _experts(SigmoidBiasConfig(_TWO))),
    Variant("expert-threshold", "expert threshold", _experts(ExpertThresholdConfig(_TWO, ema=0.9))),
    Variant("relu", "ReLU", _experts(ReluConfig(_TWO, penalty=1e-3, growth=1.1, least=1e-6))),
    Variant("top-p", "top-p", _experts(TopPConfig(_TWO)), _SOFTMAX_Z),
    Variant("hash", "hash", _experts(HashConfig(_TWO))),
    Variant("top-1", "top-1, wide", _one_wide_expert, _SOFTMAX_Z),
    Variant("dense-active", "dense, same active", lambda size: GatedMLPConfig(size.active_width)),
    Variant("dense-total", "dense, same total", lambda size: GatedMLPConfig(size.total_width)),
)
VARIANTS = {variant.name: variant for variant in _ALL}
