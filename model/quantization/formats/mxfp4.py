"""MXFP4 (OCP Microscaling Formats 1.0; arXiv 2310.10537) as gpt-oss stores its experts.

32 values of four bits (sign, two bits of exponent, one of mantissa) share a scale, which is a power of two. `_blocks`
[E, O, B, 16] has two values per byte, the first in the low half; `_scales` [E, O, B] has exponents. The plain tensors
of the checkpoint are stored input first, so the dequantized tensor is [E, 32 B, O].

Shapes: E experts, O output width, B blocks along the input.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.quantization.formats.reader import Codec, Settings

VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


@dataclass(frozen=True, slots=True)
class Mxfp4(Codec):
    suffixes: tuple[str, ...] = ("_blocks", "_scales")
    plain_suffix: str = ""
    code_dtype: torch.dtype = torch.uint8
    plain_dtype: torch.dtype = torch.bfloat16  # represents every value times every scale exactly
    nearest_scheme: str = "int4"

    def shape(self, *parts: tuple[int, ...]) -> tuple[int, ...] | None:
        blocks, scales = parts
        if len(blocks) != 4 or blocks[-1] != 16 or scales != blocks[:-1]:
            return None
        return blocks[0], 32 * blocks[2], blocks[1]

    def decode(self, *parts: Tensor) -> Tensor:
        blocks, scales = parts[0], parts[1].view(torch.float8_e8m0fnu)
        plain_EOI = torch.empty(*blocks.shape[:2], 32 * blocks.shape[2], dtype=self.plain_dtype)
        pairs = _pairs(self.plain_dtype)
        for plain_OI, codes, scale in zip(plain_EOI, blocks, scales, strict=True):
            values = pairs.index_select(0, codes.flatten().int()).view(self.plain_dtype).view(*scale.shape, 32)
            torch.mul(values, scale[..., None].to(self.plain_dtype), out=plain_OI.view_as(values))
        return plain_EOI.mT


def _pairs(dtype: torch.dtype) -> Tensor:
    """Both values of every byte as one number of twice the width, because one lookup is faster than two."""
    values = torch.tensor([*VALUES, *(-value for value in VALUES)], dtype=dtype)
    low_and_high = torch.stack([values.repeat(16), values.repeat_interleave(16)], dim=1)
    return low_and_high.view(torch.int32).flatten()


def codec(settings: Settings) -> Mxfp4:
    return Mxfp4()
