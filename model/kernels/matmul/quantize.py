"""The compiled quantization of weights. quantize_reference.py defines both functions, to the bit."""

import ctypes

import torch
from torch import Tensor

from model.kernels import native
from model.kernels.matmul.codes import GROUP_SIZE, Codes


def quantize_int8(weight: Tensor) -> Codes:
    values = torch.empty(weight.shape, dtype=torch.int8)
    scales = torch.empty(weight.shape[:-1], dtype=torch.float32)
    _run("quantize_int8", weight, (scales.numel(), weight.shape[-1]), values, scales)
    return Codes(values, scales)


def quantize_int4(weight: Tensor) -> Codes:
    *outer, inputs = weight.shape
    values = torch.empty(*outer, inputs // 2, dtype=torch.uint8)
    scales = torch.empty(*outer, inputs // GROUP_SIZE, dtype=torch.bfloat16)
    _run("quantize_int4", weight, (scales.numel(),), values, scales)
    return Codes(values, scales)


def _run(name: str, weight: Tensor, sizes: tuple[int, ...], values: Tensor, scales: Tensor) -> None:
    """All arguments are 64 bits wide. float16 has no kernel of its own: its numbers are float32 numbers, too."""
    weight = (weight if weight.dtype in native.SUFFIXES else weight.float()).contiguous()
    addresses = (values.data_ptr(), scales.data_ptr())
    arguments = (weight.data_ptr(), *sizes, *addresses, torch.get_num_threads())
    kernel = native.function("matmul", f"{name}_{native.SUFFIXES[weight.dtype]}", *[ctypes.c_int64] * len(arguments))
    native.run(kernel, *arguments, keep=(weight, values, scales))
