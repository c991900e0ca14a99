"""Rotary positions on the first part of each head (arXiv 2104.09864, the rotate-half layout)."""

import torch
from torch import Tensor


class Rotary:
    """Turns pairs of the first `width` coordinates by angles that grow with the position. Nothing in it is learnt."""

    def __init__(self, width: int, theta: float) -> None:
        exponents = torch.arange(0, width, 2, dtype=torch.float32, device="cpu") / width
        self.inverse_frequency = theta**-exponents

    def tables(self, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of every angle: [T, 1, width] each, float32."""
        angles = positions_T[:, None].float() * self.inverse_frequency.to(positions_T.device)
        angles_TW = torch.cat([angles, angles], dim=-1)[:, None]
        return angles_TW.cos(), angles_TW.sin()


def rotate(x_THD: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Apply the tables to the first coordinates of every head and leave the rest."""
    cos, sin = tables
    width = cos.shape[-1]
    turned, rest = x_THD[..., :width].float(), x_THD[..., width:]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat([-second, first], dim=-1) * sin
    return torch.cat([turned.to(x_THD.dtype), rest], dim=-1)
