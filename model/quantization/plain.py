"""Weights that are not quantized."""

import torch
from torch import Tensor

from model.kernels.matmul.codes import Codes
from model.quantization.scheme import Scheme

CHUNK = 1 << 20


def plain_scheme(dtype: torch.dtype) -> Scheme:
    """The weights as they are, in the type of the network; those in float16 take as much as in float32."""
    bits = 32.0 if dtype == torch.float16 else 8.0 * dtype.itemsize
    return Scheme(str(dtype).removeprefix("torch."), bits, keep)


def keep(weight: Tensor) -> Codes:
    """The weights; as bfloat16 if they all are bfloat16 numbers, which halves what is read for every product.

    So a bfloat16 checkpoint that is served in float32 stays in memory as bfloat16. The sums are the same.
    """
    weight = weight.contiguous()
    if weight.dtype == torch.float32 and _is_bfloat16(weight):
        return Codes(weight.bfloat16())
    return Codes(weight.float() if weight.dtype == torch.float16 else weight)


def _is_bfloat16(weight: Tensor) -> bool:
    """Whether the low 16 bits of all float32 numbers are zero."""
    return not any((chunk & 0xFFFF).any() for chunk in weight.view(torch.int32).flatten().split(CHUNK))
