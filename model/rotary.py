"""Rotary position embedding on the first part of each head (arXiv 2104.09864, rotate-half), and its scaling.

Shapes: T tokens, H heads, D head width, W rotated width, F frequencies (W / 2).
"""

import math

import torch
from torch import Tensor

from model import kernels
from model.config import FrequencyFactors, LinearScaling, Llama3Scaling, RotaryConfig, RotaryScaling, YarnScaling


class Rotary:
    """Rotates pairs of the first `dim` coordinates by angles proportional to the position. It has no parameters."""

    def __init__(self, config: RotaryConfig) -> None:
        self.config = config
        exponents_F = torch.arange(0, config.dim, 2, dtype=torch.float32, device="cpu") / config.dim
        self.frequency_F = _scaled(1.0 / config.theta**exponents_F, config)
        scaling = config.scaling
        self.magnitude = scaling.attention_factor if isinstance(scaling, YarnScaling | FrequencyFactors) else 1.0

    def tables(self, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of all angles: [T, W] each, float32."""
        return kernels.rotary_tables(positions_T, self.frequency_F.to(positions_T.device), self.magnitude)


def _scaled(frequency_F: Tensor, config: RotaryConfig) -> Tensor:
    scaling: RotaryScaling | None = config.scaling
    if isinstance(scaling, LinearScaling):
        return frequency_F / scaling.factor
    if isinstance(scaling, Llama3Scaling):
        return _llama3(frequency_F, scaling)
    if isinstance(scaling, FrequencyFactors):
        return frequency_F / torch.tensor(scaling.factors, device="cpu")
    if isinstance(scaling, YarnScaling):
        return _yarn(frequency_F, config, scaling)
    return frequency_F


def _llama3(frequency_F: Tensor, scaling: Llama3Scaling) -> Tensor:
    """Interpolate between frequency / factor and the frequency itself.

    The share of the latter rises from 0 to 1 between two numbers of rotations over the original length.
    """
    rotations_F = scaling.original_positions * frequency_F / (2 * math.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    kept_F = ((rotations_F - low) / (high - low)).clamp(0, 1)
    return frequency_F * (kept_F + (1 - kept_F) / scaling.factor)


def _yarn(frequency_F: Tensor, config: RotaryConfig, scaling: YarnScaling) -> Tensor:
    """Interpolate between the frequency itself and frequency / factor.

    The share of the former falls from 1 to 0 between two dimensions, which follow from numbers of rotations over the
    original length.
    """

    def dimension(rotations: float) -> float:
        wavelength = scaling.original_positions / (2 * math.pi * rotations)
        return config.dim * math.log(wavelength) / (2 * math.log(config.theta))

    start, end = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        start, end = math.floor(start), math.ceil(end)
    start, end = max(start, 0), min(end, config.dim - 1)
    places_F = torch.arange(len(frequency_F), dtype=torch.float32, device="cpu")
    kept_F = 1 - ((places_F - start) / max(end - start, 1e-3)).clamp(0, 1)
    return frequency_F * (kept_F + (1 - kept_F) / scaling.factor)
