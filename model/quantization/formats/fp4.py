"""Numbers of four bits (e2m1: sign, two bits of exponent, one of mantissa) with a scale per block of inputs.

MXFP4 (OCP Microscaling Formats 1.0; arXiv 2310.10537) has blocks of 32, whose scale is a power of two: a byte with its
exponent. NVFP4 (NVIDIA; arXiv 2509.25149) has blocks of 16 with a scale in e4m3, and one more scale for the matrix.

Shapes: O output width, I input width, G blocks along the input.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from model.quantization.formats.reader import EXPONENTS, FLOATS, Codec, Shape

MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def numbers(codes: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The numbers of bytes, two in each and the first in its low half: uint8 [..., B] -> `dtype` [..., 2 B]."""
    values = torch.tensor([*MAGNITUDES, *(-value for value in MAGNITUDES)], dtype=dtype)
    pairs = torch.stack([values.repeat(16), values.repeat_interleave(16)], dim=1)
    # both numbers of a byte as one of twice the width, because one lookup is faster than two
    pairs = pairs.view(torch.int64 if dtype == torch.float32 else torch.int32).flatten()
    return pairs.index_select(0, codes.flatten().int()).view(dtype).view(*codes.shape[:-1], -1)


@dataclass(frozen=True, slots=True)
class Mxfp4Matrix(Codec):
    """As compressed-tensors stores a matrix: codes [O, I / 2], exponents [O, I / 32]."""

    suffixes: tuple[str, ...] = (".weight_packed", ".weight_scale")
    code_dtype: torch.dtype = torch.uint8
    nearest_scheme: str = "int4"

    @property
    def scale_dtypes(self) -> Mapping[str, Collection[torch.dtype]]:
        return {self.suffixes[1]: EXPONENTS}

    def shape(self, codes: Shape, scale: Shape) -> Shape | None:
        return _shape(codes, scale, 32)

    def decode(self, codes: Tensor, scale: Tensor) -> Tensor:
        return _scaled(codes, scale.view(torch.float8_e8m0fnu).float())


@dataclass(frozen=True, slots=True)
class Nvfp4(Codec):
    """Codes [O, I / 2], scales [O, I / 16] and the scale of the matrix, which in compressed-tensors divides."""

    suffixes: tuple[str, ...] = (".weight", ".weight_scale", ".weight_scale_2")
    divides: bool = False
    code_dtype: torch.dtype = torch.uint8
    nearest_scheme: str = "int4"

    @property
    def scale_dtypes(self) -> Mapping[str, Collection[torch.dtype]]:
        return {self.suffixes[1]: (torch.float8_e4m3fn,), self.suffixes[2]: FLOATS}

    def shape(self, codes: Shape, scale: Shape, whole: Shape) -> Shape | None:
        return _shape(codes, scale, 16) if whole in ((), (1,)) else None

    def decode(self, codes: Tensor, scale: Tensor, whole: Tensor) -> Tensor:
        factor = whole.float().reshape(())
        return _scaled(codes, scale.float() / factor if self.divides else scale.float() * factor)


def _shape(codes: Shape, scale: Shape, block: int) -> Shape | None:
    if len(codes) != 2 or scale != (codes[0], codes[1] * 2 // block) or codes[1] * 2 % block:
        return None
    return codes[0], codes[1] * 2


def _scaled(codes: Tensor, scale_OG: Tensor) -> Tensor:
    plain_OI = numbers(codes)
    plain_OI.view(*scale_OG.shape, -1).mul_(scale_OG[..., None])
    return plain_OI
