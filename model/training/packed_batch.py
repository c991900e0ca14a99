"""Training rows that hold several sequences one after another, so that hardly any position is padding.

Shapes: T tokens of all rows, B rows, L positions of a row, C channels, J convolution taps.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from model import kernels
from model.batch import PaddedBatch
from model.kernels.types import GatedDelta


@dataclass(frozen=True, slots=True, eq=False)
class PackedBatch(PaddedBatch):
    """A PaddedBatch whose rows hold several sequences; none of them sees another one.

    `positions_BL` counts from 0 within each sequence. ValueError for layers other than attention, Gated DeltaNet and
    the short convolution, which cannot be packed.
    """

    positions_BL: Tensor = field(kw_only=True)  # int64

    @property
    def positions_T(self) -> Tensor:
        return self.positions_BL.flatten()

    def short_conv(
        self, layer: int, x_TC: Tensor, weight_CJ: Tensor, bias_C: Tensor | None = None, *, silu: bool = True
    ) -> Tensor:
        return kernels.short_conv_train(self._rows(x_TC), weight_CJ, bias_C, silu, self.positions_BL).flatten(0, 1)

    def gated_delta(self, layer: int, x_TP: Tensor, weights: GatedDelta) -> Tensor:
        return kernels.gated_delta_train(self._rows(x_TP), weights, self.positions_BL).flatten(0, 1)

    def mamba_scan(self, *args: object, **kwargs: object) -> Tensor:
        raise ValueError("rows of several sequences cannot be trained with Mamba-2 layers: use rows of one")

    def selective_scan(self, *args: object, **kwargs: object) -> Tensor:
        raise ValueError("rows of several sequences cannot be trained with Mamba layers: use rows of one")

    def kimi_delta(self, *args: object, **kwargs: object) -> Tensor:
        raise ValueError("rows of several sequences cannot be trained with Kimi Delta Attention: use rows of one")

    def _visible(self, window: int | None) -> Tensor:
        """The attention mask [B, 1, L, L]."""
        place = torch.arange(self.positions_BL.shape[1], device=self.positions_BL.device)
        distance_LL = place[:, None] - place
        reach_BL = self.positions_BL if window is None else self.positions_BL.clamp(max=window - 1)
        return ((distance_LL >= 0) & (distance_LL <= reach_BL[..., None]))[:, None]
