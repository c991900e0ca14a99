"""Calling the compiled libraries: tensors are passed as addresses."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from model.kernels.kernel_graph import CAPTURING
from model.kernels.library import load_library

SUFFIXES = {torch.float32: "f32", torch.bfloat16: "bf16"}  # of the compiled functions, by element type


def function(source: str, name: str, *types: Any) -> Callable[..., None]:
    """A function of a library that must be there; `types` are the ctypes types of its arguments."""
    found = getattr(load_library(source), name)
    found.restype = None
    if types:
        found.argtypes = types
    return found


def run(kernel: Callable[..., None], *arguments: int | float | None, keep: Sequence[object]) -> None:
    """Call a compiled function, and add the call to the graph that is being captured, if any.

    `keep` are the owners of the memory that the call reads and writes.
    """
    graph = CAPTURING.get()
    if graph is not None:
        graph.add(kernel, arguments, keep)
    kernel(*arguments)
