"""The compiled quantization to INT4. quantize_reference.py defines it, to the bit."""

import ctypes

import torch
from torch import Tensor

from model.kernels import native
from model.kernels.matmul.codes import GROUP_SIZE, Codes


def quantize_int4(weight: Tensor) -> Codes:
    """float16 has no kernel of its own: its numbers are float32 numbers too."""
    weight = (weight if weight.dtype in native.SUFFIXES else weight.float()).contiguous()
    *outer, inputs = weight.shape
    values = torch.empty(*outer, inputs // 2, dtype=torch.uint8)
    scales = torch.empty(*outer, inputs // GROUP_SIZE, dtype=torch.bfloat16)
    addresses = (weight.data_ptr(), scales.numel(), values.data_ptr(), scales.data_ptr())
    kernel = native.function("matmul", f"quantize_int4_{native.SUFFIXES[weight.dtype]}", *[ctypes.c_int64] * 5)
    native.run(kernel, *addresses, torch.get_num_threads(), keep=(weight, values, scales))
    return Codes(values, scales)
