"""Kernels that compute in another process, which may be one for another architecture that an emulator runs.

A `KernelProcess` takes the place of model/kernels/native.py: it copies the memory of a call into the arena, a file that
both processes map, has call_kernels.cpp make the call there, and copies the memory back.
"""

import ctypes
import mmap
import struct
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest
from torch import Tensor

from model import kernels
from model.kernels import build, native
from model.kernels.matmul.packed import PackedWeights
from model.kernels.types import GatedMLPWeights
from tests.isa import forget_libraries

DRIVER = Path(__file__).with_name("call_kernels.cpp")
REQUEST = struct.Struct("40s32q8f")  # the structure `Request` of call_kernels.cpp
WARNINGS = ("-Wall", "-Wextra", "-Werror")
ARENA_BYTES = 256 << 20
GUARD = b"\xff" * 64  # before and behind every block: NaN for a kernel that reads it


@dataclass(frozen=True, slots=True)
class Block:
    """Memory that a call reads or writes: its address in this process, and its place in the arena."""

    address: int
    nbytes: int
    offset: int
    is_structure: bool  # with addresses inside


def _owners(kept: object) -> Iterator[Tensor | ctypes.Structure]:
    """The tensors and structures among what a call keeps."""
    if isinstance(kept, Tensor | ctypes.Structure):
        yield kept
    elif isinstance(kept, tuple | list):
        for part in kept:
            yield from _owners(part)
    elif isinstance(kept, PackedWeights):
        yield from _owners((kept.data, kept.scales, kept.bias, kept.starts, kept._matrix))
    elif isinstance(kept, GatedMLPWeights):
        yield from _owners((kept.gate_up, kept.down))


def _spans(kept: object) -> dict[int, tuple[int, bool]]:
    """Address -> bytes, and whether it is a structure. Tensors that share memory are one span."""
    spans = {}
    for owner in _owners(kept):
        if isinstance(owner, Tensor):
            storage = owner.untyped_storage()
            spans[storage.data_ptr()] = (storage.nbytes(), False)
        else:
            spans[ctypes.addressof(owner)] = (ctypes.sizeof(owner), True)
    return {address: span for address, span in spans.items() if span[0]}


def _blocks(kept: object) -> list[Block]:
    """A place in the arena for all memory of a call, aligned like that of tensors, with guards in between."""
    found, offset = [], len(GUARD)
    for address, (nbytes, is_structure) in _spans(kept).items():
        found.append(Block(address, nbytes, offset, is_structure))
        offset += -(-nbytes // len(GUARD)) * len(GUARD) + len(GUARD)
    assert offset <= ARENA_BYTES, f"a call takes {offset} bytes of memory"
    return found


class KernelProcess:
    """The functions of model/kernels/native.py, for a running call_kernels."""

    def __init__(self, process: "subprocess.Popen[bytes]", arena: mmap.mmap) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._arena = process, arena
        self._requests: IO[bytes] = process.stdin
        self._answers: IO[bytes] = process.stdout
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(arena))
        self._remote_address = self._answer("the start")

    def function(self, source: str, name: str, *types: Any) -> str:
        return name

    def run(self, kernel: str, *arguments: int | float | None, keep: Sequence[object]) -> None:
        blocks = _blocks(keep)
        for block in blocks:
            self._copy_in(block, blocks)
        integers = [self._translate(x or 0, blocks) for x in arguments if not isinstance(x, float)]
        floats = [x for x in arguments if isinstance(x, float)]
        numbers = integers + [0] * (32 - len(integers)) + floats + [0.0] * (8 - len(floats))
        self._requests.write(REQUEST.pack(kernel.encode(), *numbers))
        self._answer(kernel)
        for block in blocks:
            self._copy_out(block, kernel)

    def _answer(self, kernel: str) -> int:
        answer = self._answers.read(8)
        assert answer, f"{kernel}: the process ended with {self._process.wait()}"
        return int.from_bytes(answer, "little")

    def _translate(self, number: int, blocks: Sequence[Block]) -> int:
        """An address in a block as the other process knows it; other numbers are what they are."""
        for block in blocks:
            if block.address <= number < block.address + block.nbytes:
                return self._remote_address + block.offset + number - block.address
        return number

    def _guards(self, block: Block) -> list[slice]:
        end = block.offset + block.nbytes
        return [slice(block.offset - len(GUARD), block.offset), slice(end, end + len(GUARD))]

    def _copy_in(self, block: Block, blocks: Sequence[Block]) -> None:
        for guard in self._guards(block):
            self._arena[guard] = GUARD
        copy = self._address + block.offset
        ctypes.memmove(copy, block.address, block.nbytes)
        if block.is_structure:
            words = (ctypes.c_uint64 * (block.nbytes // 8)).from_address(copy)
            words[:] = [self._translate(word, blocks) for word in words]

    def _copy_out(self, block: Block, kernel: str) -> None:
        for guard in self._guards(block):
            assert self._arena[guard] == GUARD, f"{kernel} wrote outside of its memory"
        if not block.is_structure:
            ctypes.memmove(block.address, self._address + block.offset, block.nbytes)


def compile_driver(compiler: str, folder: Path) -> Path:
    driver = folder / "call_kernels"
    subprocess.run([compiler, "-std=c++17", "-O1", *WARNINGS, str(DRIVER), "-o", str(driver), "-ldl"], check=True)
    return driver


def compile_kernels(compiler: str, folder: Path) -> list[Path]:
    """The kernels at the level `generic`, without warnings, and with the OpenMP runtime of the compiler."""
    flags = [*build.GENERIC["generic"], *WARNINGS]
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor() as pool:
        patch.setattr(build, "library_path", lambda source, level: folder / f"{source}_{level}.so")
        patch.setattr(build, "_openmp_library", lambda: ["-fopenmp"])  # torch's is for this processor
        jobs = [pool.submit(build.compile_library, compiler, source, "generic", flags) for source in build.SOURCES]
        return [job.result() for job in jobs]


@contextmanager
def kernel_process(command: Sequence[str | Path], libraries: Sequence[Path], folder: Path) -> Iterator[KernelProcess]:
    """Runs call_kernels: `command` is the program, in an emulator or by itself. The arena is in `folder`."""
    path = folder / "arena"
    with path.open("w+b") as file:
        file.truncate(ARENA_BYTES)
        arena = mmap.mmap(file.fileno(), ARENA_BYTES)
    with subprocess.Popen(
        [*command, path, *libraries], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        yield KernelProcess(process, arena)


@contextmanager
def compute_in(process: KernelProcess) -> Iterator[None]:
    """All compiled kernels that this process calls compute in the other one."""
    forget_libraries()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "function", process.function)
        patch.setattr(native, "run", process.run)
        patch.setattr(kernels, "compiled", lambda: True)
        yield
    forget_libraries()
