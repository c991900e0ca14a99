"""Root-mean-square norms. Weights stay in float32."""

import torch
from torch import Tensor, nn

from model import kernels


class RMSNorm(nn.Module):
    """x / rms(x) * (1 + weight): zero-centred, so that a weight of zero leaves the scale alone."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return kernels.rms_norm(x, self.weight, self.eps, offset=1.0)


class GatedRMSNorm(nn.Module):
    """x / rms(x) * weight * silu(gate), over the last dimension."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return kernels.gated_rms_norm(x, gate, self.weight, self.eps)
