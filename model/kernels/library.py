"""The compiled libraries: where they are, and which of them this processor can run.

The kernels are compiled once per instruction set (level). The best level that was built and that this processor
supports is loaded; the environment variable ROUTELM_CPU_ISA names the highest level that may be used, for instance
`avx2` to run on an AVX-512 machine what AVX2 machines run.
"""

import ctypes
import hashlib
import logging
import os
import platform
from functools import cache
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

# Best first. `generic` needs nothing beyond the baseline of its architecture.
LEVELS = ("avx512bf16", "avx512vnni", "avx512", "avx2", "generic")

# torch's name of the processor -> the best level to try. torch knows no more than AVX-512: each library exports
# `supported`, which asks the processor for the rest.
_BEST_LEVEL = {"AVX512": "avx512bf16", "AVX2": "avx2"}

# The vectors in the baseline of an architecture, which `generic` computes with.
_BASELINE_VECTORS = {"x86_64": "SSE2", "AMD64": "SSE2", "aarch64": "NEON", "arm64": "NEON"}


def library_path(source: str, level: str) -> Path:
    """Where the library of model/kernels/<source>/<source>.cpp for an instruction set is built."""
    return Path(__file__).parent / source / f"{source}_{level}.so"


@cache
def source_digest() -> str:
    """Identifies a version of the C++ sources and of the compiler options."""
    patterns = ("**/*.cpp", "**/*.h", "build.py")
    files = sorted(path for pattern in patterns for path in Path(__file__).parent.glob(pattern))
    return hashlib.blake2b(b"".join(path.read_bytes() for path in files), digest_size=16).hexdigest()


def allowed_levels() -> tuple[str, ...]:
    """The levels to try on this processor, best first, none above ROUTELM_CPU_ISA.

    Raises ValueError where that variable names no level.
    """
    highest = os.environ.get("ROUTELM_CPU_ISA", "").lower() or LEVELS[0]
    if highest not in LEVELS:
        raise ValueError(f"ROUTELM_CPU_ISA is {highest!r}: it takes one of {', '.join(LEVELS)}")
    best = _BEST_LEVEL.get(torch.backends.cpu.get_cpu_capability(), "generic")
    return LEVELS[max(LEVELS.index(highest), LEVELS.index(best)) :]


@cache
def load_library(source: str) -> ctypes.CDLL | None:
    """The library of the best allowed level; None if there is none."""
    loaded = (load_level(source, level) for level in allowed_levels())
    return next((library for library in loaded if library is not None), None)


def load_level(source: str, level: str) -> ctypes.CDLL | None:
    """The library of one level, if it was built and can run here.

    A library that was built from other sources than those beside it is not used: a warning says so.
    """
    path = library_path(source, level)
    if not path.exists():
        return None
    library = ctypes.CDLL(str(path))
    if not is_current(library):
        logger.warning("%s was built from other sources and is not used: run python -m model.kernels.build", path.name)
        return None
    return library if library.supported() else None


def instruction_set(source: str) -> str | None:
    """The level of the library in use, such as avx512; None where there is no library."""
    library = load_library(source)
    return None if library is None else Path(library._name).stem.removeprefix(f"{source}_")


def level_label(level: str) -> str:
    """A level as people know its instructions: `generic` with the vectors of this architecture."""
    vectors = _BASELINE_VECTORS.get(platform.machine())
    return f"generic ({vectors})" if level == "generic" and vectors else level


def is_current(library: ctypes.CDLL) -> bool:
    """Whether a library was built from the sources beside it."""
    if not hasattr(library, "built_of"):
        return False
    library.built_of.restype = ctypes.c_char_p
    built_of: bytes = library.built_of()
    return built_of.decode() == source_digest()
