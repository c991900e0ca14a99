"""Graphs of kernel calls: captured during one forward pass and replayed without Python and PyTorch between the calls.

A forward pass over the same number of tokens makes the same calls with the same arguments if all its tensors are at the
same addresses. So whoever replays a pass keeps its inputs in place, captures it once, and overwrites the inputs before
each replay. Like a CUDA graph, a graph contains kernel calls only: what PyTorch computes in between is not captured,
and a graph with such operations is not complete.
"""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.kernels.library import load_library

CAPTURING: ContextVar["KernelGraph | None"] = ContextVar("capturing", default=None)

aten = torch.ops.aten
MAX_INTEGERS, MAX_FLOATS = 32, 8  # arguments of a call, as in cpu/replay.h
ALLOCATIONS = frozenset({aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty})


Arguments = tuple[int | float | None, ...]


class KernelGraph:
    """Kernel calls in their order, with the memory that they read and write."""

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[..., None], Arguments]] = []
        self._kept: list[object] = []
        self.uncaptured: set[str] = set()  # operations that PyTorch computed
        self.nbytes = 0  # of the memory that was allocated for results

    @property
    def is_complete(self) -> bool:
        """Whether a replay computes everything that was computed during the capture."""
        return not self.uncaptured

    def add(self, kernel: Callable[..., None], arguments: Arguments, keep: Sequence[object]) -> None:
        self.calls.append((kernel, arguments))
        self._kept += keep

    def add_copy(self, source_TN: Tensor, target_TN: Tensor) -> None:
        """From now on each replay ends with a copy of one matrix to another, which is not made now.

        The rows of the source may be apart, those of the target must not be.
        """
        assert (source_TN.shape, source_TN.dtype) == (target_TN.shape, target_TN.dtype)
        assert source_TN.stride(1) == 1
        assert target_TN.is_contiguous()
        rows = 1 if source_TN.is_contiguous() else len(source_TN)
        nbytes, distance = target_TN.nbytes // rows, source_TN.stride(0) * source_TN.itemsize
        for row in range(rows):
            places = target_TN.data_ptr() + row * nbytes, source_TN.data_ptr() + row * distance
            self.add(_memcpy(), (*places, nbytes), ())
        self._kept += source_TN, target_TN

    def replay(self) -> None:
        """Make all calls again, on the current content of the same memory. Releases Python's global lock."""
        replay_calls = getattr(load_library("cpu"), "replay_calls", None)
        if replay_calls is None:  # on platforms whose calling convention replay.h does not support
            self.replay_one_by_one()
        else:
            replay_calls(self._packed, ctypes.c_int64(len(self._packed)))

    def replay_one_by_one(self) -> None:
        """The same from Python: the reference of `replay`."""
        for kernel, arguments in self.calls:
            kernel(*arguments)

    @cached_property
    def _packed(self) -> ctypes.Array["_Call"]:
        return (_Call * len(self.calls))(*[_Call.of(kernel, arguments) for kernel, arguments in self.calls])


@cache
def _memcpy() -> Callable[..., None]:
    """C's own, so that a copy can be a call of a graph."""
    found = ctypes.CDLL(None).memcpy
    found.argtypes, found.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t], None
    return found


class _Call(ctypes.Structure):
    """The structure `Call` of cpu/replay.h."""

    _fields_ = (
        ("kernel", ctypes.c_void_p),
        ("integers", ctypes.c_int64 * MAX_INTEGERS),
        ("floats", ctypes.c_float * MAX_FLOATS),
    )

    @classmethod
    def of(cls, kernel: Callable[..., None], arguments: Arguments) -> "_Call":
        """Raises ValueError if the structure has no room for the arguments."""
        integers = [x or 0 for x in arguments if not isinstance(x, float)]  # None is the null address
        floats = [x for x in arguments if isinstance(x, float)]
        if len(integers) > MAX_INTEGERS or len(floats) > MAX_FLOATS:
            raise ValueError(
                f"{kernel} takes {len(integers)} integers and {len(floats)} floats: "
                f"a graph can call kernels with at most {MAX_INTEGERS} and {MAX_FLOATS}"
            )
        address = ctypes.cast(kernel, ctypes.c_void_p)  # type: ignore[arg-type]
        return cls(address, (ctypes.c_int64 * MAX_INTEGERS)(*integers), (ctypes.c_float * MAX_FLOATS)(*floats))


class _Watch(TorchDispatchMode):
    """Notes every operation of PyTorch that is neither an allocation nor a view."""

    def __init__(self, graph: KernelGraph) -> None:
        super().__init__()
        self._graph = graph

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in ALLOCATIONS:
            self._graph.nbytes += result.nbytes
        elif func._schema.is_mutable or not _is_view(result, (args, kwargs)):
            self._graph.uncaptured.add(str(func))
        return result

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keeps torch from importing its compiler, which takes seconds and 70 MB, only to disable it in this mode."""
        return False


def _is_view(result: Any, arguments: Any) -> bool:
    found = _storages(result)
    return bool(found) and found <= _storages(arguments)


def _storages(tree: Any) -> set[int]:
    """The addresses of the memory of all tensors in a nested structure."""
    return {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)}


@contextmanager
def capture() -> Iterator[KernelGraph]:
    """Capture the kernel calls that this thread makes in the block. The calls are made as usual."""
    graph = KernelGraph()
    token = CAPTURING.set(graph)
    try:
        with _Watch(graph):
            yield graph
    finally:
        CAPTURING.reset(token)
