"""Where the compiled kernels lie, and which of them this processor can run."""

import ctypes
from functools import cache
from pathlib import Path

import torch

# torch's name of the processor -> instruction sets worth trying, best first
RUNNABLE = {"AVX512": ("AVX512BF16", "AVX512VBMI", "AVX512", "AVX2"), "AVX2": ("AVX2",)}


def library_path(source: str, target: str) -> Path:
    """The library built of model/kernels/<source>.cpp for an instruction set."""
    return Path(__file__).with_name(f"{source}_{target.lower()}.so")


@cache
def load_library(source: str) -> ctypes.CDLL | None:
    """The best library that was built of a source and that this processor can run.

    torch knows the processor up to AVX-512; a library that says more of itself in `supported` is asked.
    """
    for target in RUNNABLE.get(torch.backends.cpu.get_cpu_capability(), ("DEFAULT",)):
        path = library_path(source, target)
        if path.exists():
            library = ctypes.CDLL(str(path))
            if not hasattr(library, "supported") or library.supported():
                return library
    return None
