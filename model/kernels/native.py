"""Calling the compiled library: tensors become pointers, numbers become C numbers."""

import ctypes
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from model.kernels.library import find_library

LANES = 16
STATE_WIDTHS = (16, 32, 64, 128)
SUFFIXES = {torch.float32: "f32", torch.bfloat16: "bf16"}


@cache
def _library() -> ctypes.CDLL | None:
    path = find_library()
    return ctypes.CDLL(str(path)) if path is not None else None


def available() -> bool:
    """Whether a compiled library can be used on this machine."""
    return _library() is not None


def fits(x: Tensor, *widths: int) -> bool:
    """Whether the compiled code takes that element type and those widths."""
    return x.dtype in SUFFIXES and all(width % LANES == 0 for width in widths)


def call(name: str, dtype: torch.dtype, *arguments: Tensor | int | float | None) -> None:
    """Run a kernel on contiguous tensors of `dtype`, with as many threads as torch uses."""
    _function(name, dtype)(*map(_as_c, arguments), ctypes.c_int(torch.get_num_threads()))


@cache
def _function(name: str, dtype: torch.dtype) -> Callable[..., None]:
    function = getattr(_library(), f"{name}_{SUFFIXES[dtype]}")
    function.restype = None
    return function


def _as_c(value: Tensor | int | float | None) -> ctypes.c_void_p | ctypes.c_int64 | ctypes.c_float:
    if value is None or isinstance(value, Tensor):
        return ctypes.c_void_p(None if value is None else value.data_ptr())
    return ctypes.c_int64(value) if isinstance(value, int) else ctypes.c_float(value)
