"""Rotary positions and their scaling."""

from dataclasses import dataclass

MOST_COORDINATES = 65_536  # far more than any head has; their frequencies are computed before weights are looked at


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
        if not 2 <= self.dim <= MOST_COORDINATES or self.dim % 2:
            raise ValueError(
                f"rotary positions on {self.dim} coordinates of a head (head_dim, rotary_dim or qk_rope_head_dim): the "
                f"number must be even, and from 2 to {MOST_COORDINATES}"
            )
        if isinstance(self.scaling, FrequencyFactors) and len(self.scaling.factors) != self.dim // 2:
            raise ValueError(f"{len(self.scaling.factors)} factors for {self.dim // 2} rotary frequencies")


@dataclass(frozen=True, slots=True)
class NoRotary:
    """Stands for a `RotaryConfig` where the same coordinates have no position embedding."""

    dim: int
