"""The compiled calls of a forward pass, noted once and repeated: Python and PyTorch then do nothing between them.

A forward pass over as many tokens as before makes the same calls with the same numbers, if all its tensors lie where
they lay. So whoever wants to repeat one keeps its inputs in place, records it once, and writes new inputs over the old
ones. What is not a compiled call would not be repeated: a recording in which PyTorch computed something is not whole.
"""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.kernels.library import load_library

RECORDING: ContextVar["Recording | None"] = ContextVar("recording", default=None)

aten = torch.ops.aten
MOST_NUMBERS, MOST_FLOATS = 32, 8  # arguments of a call, as in repeat.inc
MAKES_ROOM = frozenset({aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty})


Arguments = tuple[int | float | None, ...]


class Recording:
    """Calls in their order, and all memory that they read and write."""

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[..., None], Arguments]] = []
        self._kept: list[object] = []
        self.foreign: set[str] = set()  # what PyTorch computed itself
        self.nbytes = 0  # of the memory that was made for results

    @property
    def is_whole(self) -> bool:
        """Whether repeating the calls repeats everything."""
        return not self.foreign

    def note(self, kernel: Callable[..., None], arguments: Arguments, keep: Sequence[object]) -> None:
        self.calls.append((kernel, arguments))
        self._kept += keep

    def repeat(self) -> None:
        """Make the calls again, on what now lies in the same memory, and leave the interpreter to others meanwhile."""
        repeat_calls = getattr(load_library("cpu"), "repeat_calls", None)
        if repeat_calls is None:  # on systems that repeat.inc does not know
            self.repeat_one_by_one()
        else:
            repeat_calls(self._packed, ctypes.c_int64(len(self._packed)))

    def repeat_one_by_one(self) -> None:
        """The same from Python: the reference of `repeat`."""
        for kernel, arguments in self.calls:
            kernel(*arguments)

    @cached_property
    def _packed(self) -> ctypes.Array["_Call"]:
        return (_Call * len(self.calls))(*[_Call.of(kernel, arguments) for kernel, arguments in self.calls])


class _Call(ctypes.Structure):
    """A call as repeat.inc reads it."""

    _fields_ = (
        ("kernel", ctypes.c_void_p),
        ("numbers", ctypes.c_int64 * MOST_NUMBERS),
        ("floats", ctypes.c_float * MOST_FLOATS),
    )

    @classmethod
    def of(cls, kernel: Callable[..., None], arguments: Arguments) -> "_Call":
        """ValueError for more arguments than there is room for."""
        numbers = [x or 0 for x in arguments if not isinstance(x, float)]  # None is the address of nothing
        floats = [x for x in arguments if isinstance(x, float)]
        if len(numbers) > MOST_NUMBERS or len(floats) > MOST_FLOATS:
            raise ValueError(f"{kernel} takes {len(numbers)} numbers, {len(floats)} floats: more than repeat.inc can")
        address = ctypes.cast(kernel, ctypes.c_void_p)  # type: ignore[arg-type]
        return cls(address, (ctypes.c_int64 * MOST_NUMBERS)(*numbers), (ctypes.c_float * MOST_FLOATS)(*floats))


class _Watch(TorchDispatchMode):
    """Notes every operation of PyTorch that does more than make room or look at memory in another way."""

    def __init__(self, recording: Recording) -> None:
        super().__init__()
        self._recording = recording

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in MAKES_ROOM:
            self._recording.nbytes += result.nbytes
        elif func._schema.is_mutable or not _is_view(result, (args, kwargs)):
            self._recording.foreign.add(str(func))
        return result

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """PyTorch's compiler is nowhere near; importing it in order to keep it away takes seconds and 70 MB."""
        return False


def _is_view(result: Any, arguments: Any) -> bool:
    found = _storages(result)
    return bool(found) and found <= _storages(arguments)


def _storages(tree: Any) -> set[int]:
    """Where the memory of the tensors in there lies; oneDNN's own tell nobody."""
    tensors = (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.layout is torch.strided)
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


@contextmanager
def recorded() -> Iterator[Recording]:
    """Record the compiled calls that this thread makes in the block. They are made as always."""
    recording = Recording()
    token = RECORDING.set(recording)
    try:
        with _Watch(recording):
            yield recording
    finally:
        RECORDING.reset(token)
