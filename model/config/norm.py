"""Norms, and where in a block they are."""

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class NormConfig:
    """x / rms(x) * (offset + weight). With an offset of 1, a weight of zero is the identity."""

    eps: float = 1e-6
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class LayerNormConfig:
    """(x - mean(x)) / std(x) * weight + bias."""

    eps: float = 1e-5


class NormPlacement(Enum):
    """Where a block normalizes: what a mixer or feed-forward reads, what it adds to the residual stream, or both."""

    PRE = "pre"
    POST = "post"
    SANDWICH = "sandwich"

    @property
    def has_pre(self) -> bool:
        return self is not NormPlacement.POST

    @property
    def has_post(self) -> bool:
        return self is not NormPlacement.PRE
