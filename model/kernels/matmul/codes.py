"""Matrices as quantization leaves them, in the form in which checkpoints store them and matrix products take them.

Shapes: I input width, O output width, G groups of 32 inputs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from operator import itemgetter

import torch
from torch import Tensor

GROUP_SIZE = 32  # inputs that share a scale
CHUNK = 1 << 20  # weights that are dequantized at a time


class Format(IntEnum):
    """The enum `Format` of weights.h. Q8_0 and Q4_1 are named like the types of GGUF files that they hold exactly."""

    F32 = 0
    BF16 = 1
    INT8 = 2
    INT4 = 3
    Q8_0 = 4
    Q4_1 = 5

    @property
    def bits_per_weight(self) -> float:
        """With scales and minima."""
        return {Format.F32: 32, Format.BF16: 16, Format.INT8: 8, Format.INT4: 4.5, Format.Q8_0: 8.5, Format.Q4_1: 5}[
            self
        ]


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """The same on every machine; quantized checkpoints store them. What they are follows from their types and shapes:

    F32, BF16   `values` [..., O, I] are the weights, without scales.
    INT8        `values` int8 [..., O, I], `scales` float32 [..., O]
    Q8_0        `values` int8 [..., O, I], `scales` float16 [..., O, G]
    INT4        `values` uint8 [..., O, I / 2] with the even input in the low half of a byte, in two's complement;
                `scales` bfloat16 or float16 [..., O, G]
    Q4_1        the same with integers from 0 to 15, scales in float16, and `minima` float16 [..., O, G] to be added
    """

    values: Tensor
    scales: Tensor | None = None
    minima: Tensor | None = None

    @property
    def format(self) -> Format:
        if self.scales is None:
            return Format.BF16 if self.values.dtype == torch.bfloat16 else Format.F32
        if self.values.dtype == torch.int8:
            return Format.INT8 if self.scales.dim() < self.values.dim() else Format.Q8_0
        return Format.INT4 if self.minima is None else Format.Q4_1

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the weights: [..., O, I]."""
        *outer, width = self.values.shape
        return (*outer, width * 2 if self.values.dtype == torch.uint8 else width)

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        """Those that are there, by name."""
        found = {"values": self.values, "scales": self.scales, "minima": self.minima}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def map(self, change: Callable[[Tensor], Tensor]) -> "Codes":
        """The same change of all tensors, which must not touch their last axis."""
        return Codes(**{name: change(tensor) for name, tensor in self.tensors().items()})

    def dequantized(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weights [..., O, I], which are float32 numbers, rounded to `dtype`."""
        if self.scales is None:
            return self.values.to(dtype)
        weight = torch.empty(self.shape, dtype=dtype)
        step = max(1, CHUNK * len(weight) // max(1, weight.numel()))
        for start in range(0, len(weight), step):
            weight[start : start + step] = self.map(itemgetter(slice(start, start + step)))._float()
        return weight

    def _float(self) -> Tensor:
        assert self.scales is not None
        integers = self.values if self.values.dtype == torch.int8 else self._nibbles()
        if self.format is Format.INT8:
            return integers.float() * self.scales.float()[..., None]
        scaled = integers.float().unflatten(-1, (self.scales.shape[-1], -1)) * self.scales.float()[..., None]
        return (scaled if self.minima is None else scaled + self.minima.float()[..., None]).flatten(-2)

    def _nibbles(self) -> Tensor:
        """The integers of four bits."""
        nibbles = torch.stack([self.values & 15, self.values >> 4], dim=-1).flatten(-2).to(torch.int8)
        return torch.where(nibbles > 7, nibbles - 16, nibbles) if self.minima is None else nibbles


def join_codes(join: Callable[[list[Tensor]], Tensor], parts: Sequence[Codes]) -> Codes:
    """Codes of one format, joined like their matrices. `join` must keep rows whole: it is applied to every tensor."""
    names = parts[0].tensors()
    return Codes(**{name: join([part.tensors()[name] for part in parts]) for name in names})


def codes_header(format: Format, shape: tuple[int, ...]) -> Codes:
    """Codes in groups on the device "meta", which have types and shapes only."""
    *outer, inputs = shape
    is_byte = format is Format.Q8_0
    values = torch.empty(
        *outer, inputs if is_byte else inputs // 2, dtype=torch.int8 if is_byte else torch.uint8, device="meta"
    )
    scales = torch.empty(*outer, inputs // GROUP_SIZE, dtype=torch.float16, device="meta")
    return Codes(values, scales, scales if format is Format.Q4_1 else None)
