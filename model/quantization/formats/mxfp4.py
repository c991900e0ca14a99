"""MXFP4 (fp4.py) as gpt-oss stores its experts.

`_blocks` [E, O, B, 16] has two values per byte, the first in the low half; `_scales` [E, O, B] has exponents. The plain
tensors of the checkpoint are stored input first, so the dequantized tensor is [E, 32 B, O].

Shapes: E experts, O output width, B blocks along the input.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from model.quantization.formats.fp4 import numbers
from model.quantization.formats.reader import EXPONENTS, Codec, Settings


@dataclass(frozen=True, slots=True)
class Mxfp4(Codec):
    suffixes: tuple[str, ...] = ("_blocks", "_scales")
    plain_suffix: str = ""
    code_dtype: torch.dtype = torch.uint8
    plain_dtype: torch.dtype = torch.bfloat16  # represents every value times every scale exactly
    nearest_scheme: str = "int4"

    @property
    def scale_dtypes(self) -> Mapping[str, Collection[torch.dtype]]:
        return {self.suffixes[1]: EXPONENTS}

    def shape(self, *parts: tuple[int, ...]) -> tuple[int, ...] | None:
        blocks, scales = parts
        if len(blocks) != 4 or blocks[-1] != 16 or scales != blocks[:-1]:
            return None
        return blocks[0], 32 * blocks[2], blocks[1]

    def decode(self, *parts: Tensor) -> Tensor:
        blocks, scales = parts[0], parts[1].view(torch.float8_e8m0fnu)
        plain_EOI = torch.empty(*blocks.shape[:2], 32 * blocks.shape[2], dtype=self.plain_dtype)
        for plain_OI, codes, scale in zip(plain_EOI, blocks, scales, strict=True):
            values = numbers(codes, self.plain_dtype)
            torch.mul(values, scale[..., None].to(self.plain_dtype), out=plain_OI.view_as(values))
        return plain_EOI.mT


def codecs(settings: Settings) -> tuple[Codec, ...]:
    return (Mxfp4(),)
