"""Calling the kernels of cpu.cpp, and the shapes for which they are compiled."""

import ctypes
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from model.kernels import native

LANES = 16
TAPS = range(2, 9)  # of a convolution
VALUE_WIDTHS = (16, 32, 64, 128)  # of the delta rule
MAX_STATE_WIDTH = 256  # of a head of a recurrence: the size of its buffers on the stack


def fits(x: Tensor, *widths: int) -> bool:
    """Whether the compiled code supports the element type of x and these widths."""
    return x.dtype in native.SUFFIXES and all(width % LANES == 0 for width in widths)


def fits_convolution(x: Tensor, channels: int, taps: int) -> bool:
    """Whether a short convolution of that shape is compiled."""
    return fits(x, channels) and taps in TAPS


def fits_delta_rule(x: Tensor, key_width: int, value_width: int) -> bool:
    """Whether the delta rule is compiled for heads of that shape."""
    return fits(x, key_width) and key_width <= MAX_STATE_WIDTH and value_width in VALUE_WIDTHS


def fits_scan(x: Tensor, width: int, state_width: int) -> bool:
    """Whether the recurrence of Mamba-2 is compiled for heads of that shape."""
    return fits(x, width, state_width) and max(width, state_width) <= MAX_STATE_WIDTH


def fits_selective_scan(x: Tensor, channels: int, state_width: int) -> bool:
    """Whether the recurrence of Mamba-1 is compiled for that shape."""
    return fits(x, channels, state_width) and state_width <= MAX_STATE_WIDTH


def call(name: str, dtype: torch.dtype, *arguments: Tensor | int | float | None) -> None:
    """Run a kernel on tensors of `dtype`, with as many threads as torch uses."""
    kernel = _function(name, dtype, *map(type, arguments))
    native.run(
        kernel,
        *[x.data_ptr() if isinstance(x, Tensor) else x for x in arguments],
        torch.get_num_threads(),
        keep=arguments,
    )


@cache
def _function(name: str, dtype: torch.dtype, *types: type) -> Callable[..., None]:
    as_c = {int: ctypes.c_int64, float: ctypes.c_float}  # everything else is an address
    arguments = [as_c.get(t, ctypes.c_void_p) for t in types]
    return native.function("cpu", f"{name}_{native.SUFFIXES[dtype]}", *arguments, ctypes.c_int)
