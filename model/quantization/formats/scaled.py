"""Weights of eight bits that are multiplied by scales: FP8 and int8 as several programs store them.

`weight` [O, I] is in e4m3 or int8. `weight_scale` is one number for all (AutoFP8, modelopt), one per output [O] or
[O, 1], one per output and group of inputs [O, G] (compressed-tensors), or one per block [O / 128, 1, I / 128, 1]
(modelopt); bytes beside e4m3 (MXFP8) are the exponents of powers of two. bitsandbytes has 127 times it in `SCB`. An
optional `weight_zero_point` of the same shape is subtracted from int8.

Shapes: I input width, O output width, G groups.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.quantization.formats.reader import EXPONENTS, FLOATS, Codec, Shape

BLOCK = (128, 128)


@dataclass(frozen=True, slots=True)
class Scaled(Codec):
    code_dtype: torch.dtype
    suffixes: tuple[str, str, str] = (".weight", ".weight_zero_point", ".weight_scale")
    divisor: float = 1.0
    nearest_scheme: str = "int8"

    @property
    def optional(self) -> tuple[str, ...]:
        return (self.suffixes[1],)

    @property
    def scale_dtypes(self) -> Mapping[str, Collection[torch.dtype]]:
        return {self.suffixes[2]: FLOATS if self.code_dtype == torch.int8 else FLOATS | EXPONENTS}

    def shape(self, weight: Shape, zero: Shape | None, scale: Shape) -> Shape | None:
        if len(weight) != 2 or zero not in (None, scale):
            return None
        outputs, inputs = weight
        whole, by_output = scale in ((), (1,), (1, 1)), scale in ((outputs,), (outputs, 1))
        by_group = len(scale) == 2 and scale[0] == outputs and scale[1] > 0 and inputs % scale[1] == 0
        by_block = scale == (-(-outputs // BLOCK[0]), 1, -(-inputs // BLOCK[1]), 1)
        return weight if whole or by_output or by_group or by_block else None

    def decode(self, weight: Tensor, zero: Tensor | None, scale: Tensor) -> Tensor:
        codes, scale = weight.float(), scale.view(torch.float8_e8m0fnu) if scale.dtype == torch.uint8 else scale
        if zero is not None:
            codes -= self._spread(zero.float(), codes)
        return codes.mul_(self._spread(scale.float() / self.divisor, codes))

    def _spread(self, scale: Tensor, codes_OI: Tensor) -> Tensor:
        if scale.numel() == 1:
            return scale.reshape(())
        if scale.dim() == 4:
            return spread_blocks(scale[:, 0, :, 0], BLOCK, codes_OI.shape)
        by_output = scale.reshape(len(codes_OI), -1)
        return by_output.repeat_interleave(codes_OI.shape[1] // by_output.shape[1], 1)


def spread_blocks(scale: Tensor, block: tuple[int, int], shape: Sequence[int]) -> Tensor:
    """A number for each weight of matrices of this shape, from one for each block [..., rows, columns]."""
    (rows, columns), (height, width) = shape, block
    by_row = scale.repeat_interleave(min(height, rows), -2)[..., :rows, :]
    return by_row.repeat_interleave(min(width, columns), -1)[..., :columns]
