"""Weights as they are."""

import torch
from torch import Tensor

from model.quantization.scheme import Codes

CHUNK = 1 << 20


def keep(weight: Tensor) -> Codes:
    """The weights; in bfloat16 where that loses nothing, which halves what has to be read.

    A checkpoint of bfloat16 may be served in float32: float32 rows times bfloat16 weights have the same sums as float32
    rows times float32 weights.
    """
    weight = weight.contiguous()
    if weight.dtype == torch.float32 and _is_bfloat16(weight):
        return Codes(weight.bfloat16())
    return Codes(weight.float() if weight.dtype == torch.float16 else weight)


def _is_bfloat16(weight: Tensor) -> bool:
    """Whether the low halves of all float32 numbers are zero."""
    return not any((chunk & 0xFFFF).any() for chunk in weight.view(torch.int32).flatten().split(CHUNK))
