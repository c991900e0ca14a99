"""Rotary positions on the first part of each head (arXiv 2104.09864, the rotate-half layout), and how they stretch.

Shapes: T tokens, H heads, D head width, W rotated width, F frequencies (W / 2).
"""

import math

import torch
from torch import Tensor

from model import kernels
from model.config import LinearScaling, Llama3Scaling, RotaryConfig, RotaryScaling, YarnScaling


class Rotary:
    """Turns pairs of the first `dim` coordinates by angles that grow with the position. Nothing in it is learnt."""

    def __init__(self, config: RotaryConfig) -> None:
        self.config = config
        exponents_F = torch.arange(0, config.dim, 2, dtype=torch.float32, device="cpu") / config.dim
        self.frequency_F = _scaled(1.0 / config.theta**exponents_F, config)
        self.magnitude = config.scaling.attention_factor if isinstance(config.scaling, YarnScaling) else 1.0

    def tables(self, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of every angle: [T, W] each, float32."""
        return kernels.rotary_tables(positions_T, self.frequency_F.to(positions_T.device), self.magnitude)


def _scaled(frequency_F: Tensor, config: RotaryConfig) -> Tensor:
    scaling: RotaryScaling | None = config.scaling
    if isinstance(scaling, LinearScaling):
        return frequency_F / scaling.factor
    if isinstance(scaling, Llama3Scaling):
        return _llama3(frequency_F, scaling)
    if isinstance(scaling, YarnScaling):
        return _yarn(frequency_F, config, scaling)
    return frequency_F


def _llama3(frequency_F: Tensor, scaling: Llama3Scaling) -> Tensor:
    """How much of a frequency is kept grows from 0 to 1 between two numbers of turns over the original length."""
    turns_F = scaling.original_positions * frequency_F / (2 * math.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    kept_F = ((turns_F - low) / (high - low)).clamp(0, 1)
    return frequency_F * (kept_F + (1 - kept_F) / scaling.factor)


def _yarn(frequency_F: Tensor, config: RotaryConfig, scaling: YarnScaling) -> Tensor:
    """How much of a frequency is kept falls from 1 to 0 between two dimensions, found from numbers of turns."""

    def dimension(turns: float) -> float:
        longest = scaling.original_positions / (2 * math.pi * turns)
        return config.dim * math.log(longest) / (2 * math.log(config.theta))

    start, end = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        start, end = math.floor(start), math.ceil(end)
    start, end = max(start, 0), min(end, config.dim - 1)
    places_F = torch.arange(len(frequency_F), dtype=torch.float32, device="cpu")
    kept_F = 1 - ((places_F - start) / max(end - start, 1e-3)).clamp(0, 1)
    return frequency_F * (kept_F + (1 - kept_F) / scaling.factor)
