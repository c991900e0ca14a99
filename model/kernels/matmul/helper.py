"""A second thread that helps the calling one with large products, on a processor that other processes use as well.

The calling thread does not wait for it, so it costs nothing while the system does not run it (helper.h). It helps with
what is computed with one thread, and never changes a result.
"""

import ctypes
from typing import NamedTuple

from model.kernels.library import load_library


class HelperCounts(NamedTuple):
    """Jobs that the helper of the calling thread computed, and those of its jobs that were computed again."""

    helped: int
    repeated: int


def start_helper() -> None:
    """Until `stop_helper`, weights by which the calling thread multiplies must stay in memory.

    The helper also stops when that thread ends. Where a limit allows no further thread, there is none.
    """
    library = load_library("matmul")
    if library is not None:
        library.start_helper()


def stop_helper() -> None:
    """Returns when the helper of the calling thread, if there is one, has ended."""
    library = load_library("matmul")
    if library is not None:
        library.stop_helper()


def helper_counts() -> HelperCounts:
    """Zeros without a helper."""
    counts = (ctypes.c_int64 * 2)()
    library = load_library("matmul")
    if library is not None:
        library.helper_counts(counts)
    return HelperCounts(*counts)
