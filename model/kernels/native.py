"""Calling a compiled library: tensors become pointers, numbers become C numbers."""

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from model.kernels.library import load_library
from model.kernels.recording import RECORDING

LANES = 16
TAPS = range(2, 9)  # of a convolution
VALUE_WIDTHS = (16, 32, 64, 128)  # of the delta rule
ROOM = 256  # the widest head that a recurrence has room for on its stack
SUFFIXES = {torch.float32: "f32", torch.bfloat16: "bf16"}


def available(source: str = "cpu") -> bool:
    """Whether the library compiled of that source can be used on this machine."""
    return load_library(source) is not None


def fits(x: Tensor, *widths: int) -> bool:
    """Whether the compiled code takes that element type and those widths."""
    return x.dtype in SUFFIXES and all(width % LANES == 0 for width in widths)


def fits_convolution(x: Tensor, channels: int, taps: int) -> bool:
    """Whether there is compiled code for a short convolution of that shape."""
    return fits(x, channels) and taps in TAPS


def fits_delta_rule(x: Tensor, key_width: int, value_width: int) -> bool:
    """Whether there is compiled code for the delta rule on heads of that shape."""
    return fits(x, key_width) and key_width <= ROOM and value_width in VALUE_WIDTHS


def fits_scan(x: Tensor, width: int, state_width: int) -> bool:
    """Whether there is compiled code for Mamba-2's recurrence on heads of that shape."""
    return fits(x, width, state_width) and max(width, state_width) <= ROOM


def call(name: str, dtype: torch.dtype, *arguments: Tensor | int | float | None) -> None:
    """Run a kernel on tensors of `dtype`, with as many threads as torch uses."""
    kernel = _function(name, dtype, *map(type, arguments))
    run(
        kernel,
        *[x.data_ptr() if isinstance(x, Tensor) else x for x in arguments],
        torch.get_num_threads(),
        keep=arguments,
    )


def run(kernel: Callable[..., None], *arguments: int | float | None, keep: Sequence[object]) -> None:
    """Call a compiled function, and note it where calls are being recorded; `keep` owns the memory it works on."""
    recording = RECORDING.get()
    if recording is not None:
        recording.note(kernel, arguments, keep)
    kernel(*arguments)


@cache
def _function(name: str, dtype: torch.dtype, *types: type) -> Callable[..., None]:
    as_c = {int: ctypes.c_int64, float: ctypes.c_float}  # everything else is an address
    return function("cpu", f"{name}_{SUFFIXES[dtype]}", *[as_c.get(t, ctypes.c_void_p) for t in types], ctypes.c_int)


def function(source: str, name: str, *types: Any) -> Callable[..., None]:
    """A function of a library that must be available; `types` are those of its arguments, in ctypes' words."""
    found = getattr(load_library(source), name)
    found.restype = None
    if types:
        found.argtypes = types
    return found
