"""Choosing the level of compiled kernels (see model/kernels/library.py) in tests."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from model import kernels
from model.kernels import library
from model.kernels.cpu import calls
from model.kernels.matmul import packed

AARCH64 = "aarch64"  # kernels that are compiled for it, in an emulator: see tests/model/kernels/conftest.py


def runnable_levels(source: str = "matmul") -> list[str]:
    """The levels whose library was built and can run on this machine, best first."""
    return [level for level in library.allowed_levels() if library.load_level(source, level) is not None]


@contextmanager
def use_level(level: str) -> Iterator[None]:
    """Compute with the kernels of that level, or of the next lower one that a source has code for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROUTELM_CPU_ISA", level)
        patch.delenv("ROUTELM_REFERENCE_KERNELS", raising=False)
        forget_libraries()
        yield
    forget_libraries()


def forget_libraries() -> None:
    for cached in (kernels.compiled, library.load_library, calls._function, packed._function):
        cached.cache_clear()
