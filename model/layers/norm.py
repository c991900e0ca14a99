"""RMSNorm and its gated form, LayerNorm. Weights stay in float32."""

import torch
from torch import Tensor, nn

from model import kernels
from model.config import LayerNormConfig, NormConfig


class RMSNorm(nn.Module):
    """x / rms(x) * (offset + weight) over the last dimension; offset + weight is 1 at first."""

    def __init__(self, width: int, config: NormConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.full((width,), 1.0 - config.offset))

    def forward(self, x: Tensor) -> Tensor:
        return kernels.rms_norm(x, self.weight, self.config.eps, self.config.offset)

    def after_adding(self, x: Tensor, y: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """x + scale * y, and the norm of this sum."""
        return kernels.add_norm(x, y, scale, self.weight, self.config.eps, self.config.offset)


class LayerNorm(nn.Module):
    """(x - mean(x)) / std(x) * weight + bias over the last dimension."""

    def __init__(self, width: int, config: LayerNormConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return kernels.layer_norm(x, self.weight, self.bias, self.config.eps)

    def after_adding(self, x: Tensor, y: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """x + scale * y, and the norm of this sum."""
        total = kernels.add_scaled(x, y, scale)
        return total, self(total)


class NoNorm(nn.Module):
    """Stands where a block has no norm."""

    def forward(self, x: Tensor) -> Tensor:
        return x

    def after_adding(self, x: Tensor, y: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """x + scale * y, twice."""
        total = kernels.add_scaled(x, y, scale)
        return total, total


Norm = RMSNorm | LayerNorm | NoNorm


def build_norm(width: int, config: NormConfig | LayerNormConfig) -> RMSNorm | LayerNorm:
    return LayerNorm(width, config) if isinstance(config, LayerNormConfig) else RMSNorm(width, config)


class GatedRMSNorm(nn.Module):
    """x / rms(x) * weight * silu(gate), over the last dimension."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return kernels.gated_rms_norm(x, gate, self.weight, self.eps)
