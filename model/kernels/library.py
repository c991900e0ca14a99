"""Where the compiled kernels lie, and which of them this processor can run."""

import ctypes
import hashlib
import logging
from functools import cache
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

# torch's name of the processor -> instruction sets worth trying, best first
RUNNABLE = {"AVX512": ("AVX512BF16", "AVX512VBMI", "AVX512", "AVX2"), "AVX2": ("AVX2",)}


def library_path(source: str, target: str) -> Path:
    """The library built of model/kernels/<source>.cpp for an instruction set."""
    return Path(__file__).with_name(f"{source}_{target.lower()}.so")


@cache
def source_digest() -> str:
    """Tells one version of the C++ sources and of how they are compiled from another."""
    files = sorted(path for pattern in ("*.cpp", "*.inc", "build.py") for path in Path(__file__).parent.glob(pattern))
    return hashlib.blake2b(b"".join(path.read_bytes() for path in files), digest_size=16).hexdigest()


@cache
def load_library(source: str) -> ctypes.CDLL | None:
    """The best library that was built of a source and that this processor can run.

    torch knows the processor up to AVX-512; a library that says more of itself in `supported` is asked. One that was
    built of other sources than those beside it is left alone, with a warning.
    """
    for target in RUNNABLE.get(torch.backends.cpu.get_cpu_capability(), ("DEFAULT",)):
        path = library_path(source, target)
        if path.exists():
            library = ctypes.CDLL(str(path))
            if not is_current(library):
                logger.warning("%s is of an older build and not used: run python -m model.kernels.build", path.name)
            elif not hasattr(library, "supported") or library.supported():
                return library
    return None


def instruction_set(source: str) -> str | None:
    """The one that the library in use was built for, such as avx512; None where there is no library."""
    library = load_library(source)
    return None if library is None else Path(library._name).stem.removeprefix(f"{source}_")


def is_current(library: ctypes.CDLL) -> bool:
    """Whether it was built of the sources that are there now."""
    if not hasattr(library, "built_of"):
        return False
    library.built_of.restype = ctypes.c_char_p
    built_of: bytes = library.built_of()
    return built_of.decode() == source_digest()
