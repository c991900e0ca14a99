"""Routing algorithms."""

from dataclasses import dataclass
from typing import ClassVar


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
class SoftmaxBiasConfig:
    """Top k of a softmax over all experts plus a bias that is not part of the weights, which sum to 1."""

    top_k: int
    bias_rate: float = 1e-3


@dataclass(frozen=True, slots=True)
class SparseMixerConfig:
    """SparseMixer (arXiv 2409.12136): two experts, each weighted by a softmax over the scores near to its own.

    Scores that are below it by more than `2 * jitter`, relative to the larger magnitude, are left out.
    """

    top_k: int = 2
    jitter: float = 0.01
    max_top_k: ClassVar[int] = 2

    def __post_init__(self) -> None:
        self.check(self.top_k)

    @classmethod
    def check(cls, k: int) -> None:
        """Raise ValueError for a number of experts per token that the algorithm is not defined for."""
        if k > cls.max_top_k:
            raise ValueError(f"SparseMixer chooses at most {cls.max_top_k} experts per token, not {k}")


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


# `top_k` experts per token
FixedKConfig = (
    SoftmaxTopKConfig | TopKSoftmaxConfig | SigmoidBiasConfig | SoftmaxBiasConfig | SparseMixerConfig | HashConfig
)
RouterConfig = FixedKConfig | ExpertThresholdConfig | ReluConfig | TopPConfig
