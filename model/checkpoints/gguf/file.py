"""One GGUF file: its metadata, the places of its tensors, and their blocks (github.com/ggml-org/ggml, docs/gguf.md).

Nothing in the header is believed: every count and length is compared with the bytes that are left in the file before
anything of that size is made.
"""

import struct
from dataclasses import dataclass
from io import BufferedReader
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.checkpoints.gguf.ggml_types import OTHER_NAMES, TYPES, GgmlType
from model.checkpoints.reader import CheckpointError
from model.kernels.matmul.codes import Codes, join_codes

MAGIC, VERSIONS = b"GGUF", (2, 3)
MAX_DIMENSIONS, MAX_ALIGNMENT = 4, 1 << 20
MAX_NAME = 64  # characters of a tensor's name
MAX_ENTRIES = 1 << 16  # of the metadata
MAX_STRINGS = 1 << 22  # of a list; each takes more memory than bytes in the file
NUMBERS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
STRING, ARRAY = 8, 9
CHUNK = 1 << 12  # blocks that are dequantized at a time, so that intermediate results stay in the cache


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies in its file. `shape` has the fastest axis last, unlike in the file."""

    shape: tuple[int, ...]
    type: GgmlType
    start: int

    @property
    def size(self) -> int:
        """In bytes."""
        return prod(self.shape) // self.type.block_weights * self.type.block_bytes

    def part(self, index: int) -> "StoredTensor":
        """One of the tensors that are stacked along the first axis."""
        first = StoredTensor(self.shape[1:], self.type, self.start)
        return StoredTensor(first.shape, first.type, self.start + index * first.size)


class GgufFile:
    """The header is read when a file is opened. `metadata`: numbers, strings, lists of strings, arrays of numbers."""

    def __init__(self, path: Path) -> None:
        """Raises CheckpointError, with the file's name, where the file is damaged or no GGUF file of this machine."""
        self.path = path
        try:
            with path.open("rb") as file:
                self.metadata, self.tensors = _Header(file, path.stat().st_size).read()
        except CheckpointError as error:
            raise CheckpointError(f"{path.name} cannot be read as GGUF: {error}") from error

    def read(self, name: str, index: int | None = None) -> Tensor:
        """The dequantized tensor, or its part `index` along the first axis."""
        stored = self._stored(name, index)
        return _dequantized(self._bytes(name, stored), stored)

    def read_codes(self, name: str, index: int | None = None) -> Codes:
        """The same in the format of the tensor's type, which must have codes."""
        stored = self._stored(name, index)
        return _codes(self._bytes(name, stored), stored)

    def _stored(self, name: str, index: int | None) -> StoredTensor:
        stored = self.tensors[name]
        return stored if index is None else stored.part(index)

    def _bytes(self, name: str, stored: StoredTensor) -> Tensor:
        buffer = np.empty(stored.size, dtype=np.uint8)
        with self.path.open("rb", buffering=0) as file:
            file.seek(stored.start)
            _read_into(file, buffer.data, name)
        return torch.from_numpy(buffer)


def _read_into(file: Any, view: memoryview, name: str) -> None:
    while view:
        count = file.readinto(view)
        if not count:
            raise CheckpointError(f"tensor {name} cannot be read: the file has become shorter")
        view = view[count:]


def _dequantized(stored_bytes: Tensor, stored: StoredTensor) -> Tensor:
    kind = stored.type
    if kind.decode is None:
        return stored_bytes.view(kind.dtype).view(stored.shape)
    plain = torch.empty(stored.shape, dtype=kind.dtype)
    blocks_NB, plain_NB = stored_bytes.view(-1, kind.block_bytes), plain.view(-1, kind.block_weights)
    for start in range(0, len(blocks_NB), CHUNK):
        plain_NB[start : start + CHUNK] = kind.decode(blocks_NB[start : start + CHUNK])
    return plain


def _codes(stored_bytes: Tensor, stored: StoredTensor) -> Codes:
    assert stored.type.codes is not None
    parts = [stored.type.codes(blocks_NB) for blocks_NB in stored_bytes.view(-1, stored.type.block_bytes).split(CHUNK)]
    return join_codes(torch.cat, parts).map(lambda tensor: tensor.view(*stored.shape[:-1], -1))


class _Header:
    """Reads the header from the beginning of a file, and counts the bytes that are left."""

    def __init__(self, file: BufferedReader, size: int) -> None:
        self._file, self._size, self._left = file, size, size

    def read(self) -> tuple[dict[str, Any], dict[str, StoredTensor]]:
        if self._bytes(4) != MAGIC:
            raise CheckpointError("it does not begin with GGUF")
        version = self._number("<u4")
        if version not in VERSIONS:
            big_endian = version and version & 0xFFFF == 0
            raise CheckpointError(
                "its numbers are big-endian" if big_endian else f"its version is {version}: 2 and 3 are known"
            )
        tensors, entries = self._count(24, "tensors"), self._count(13, "entries of metadata")
        if entries > MAX_ENTRIES:
            raise CheckpointError(f"it has {entries} entries of metadata: {MAX_ENTRIES} are allowed")
        metadata = dict(self._unique(lambda: (self._string(), self._value(self._number("<u4"))), entries))
        described = dict(self._unique(self._tensor, tensors))
        return metadata, self._placed(described, metadata.get("general.alignment", 32))

    def _unique(self, read: Any, count: int) -> Any:
        seen: set[str] = set()
        for _ in range(count):
            name, value = read()
            if name in seen:
                raise CheckpointError(f"it has {name!r} twice")
            seen.add(name)
            yield name, value

    def _bytes(self, count: int) -> bytes:
        if count > self._left:
            raise CheckpointError("it is truncated or damaged: the header promises more bytes than there are")
        self._left -= count
        found = self._file.read(count)
        if len(found) != count:
            raise CheckpointError("it is truncated")
        return found

    def _number(self, kind: str) -> Any:
        dtype = np.dtype(kind)
        return _plain(np.frombuffer(self._bytes(dtype.itemsize), dtype)[0])

    def _count(self, smallest: int, what: str) -> int:
        """A number of things that take at least `smallest` bytes each."""
        count: int = struct.unpack("<Q", self._bytes(8))[0]
        if count * smallest > self._left:
            raise CheckpointError(f"the header promises {count} {what}, for which there are not enough bytes")
        return count

    def _string(self) -> str:
        text = self._bytes(self._count(1, "characters"))
        return text.decode("utf-8", errors="replace")

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            return self._array(self._number("<u4"))
        if kind not in NUMBERS:
            raise CheckpointError(f"its metadata has a value of the unknown type {kind}")
        return self._number(NUMBERS[kind])

    def _array(self, kind: int) -> list[str] | np.ndarray[Any, Any]:
        if kind == STRING:
            count = self._count(8, "strings")
            if count > MAX_STRINGS:
                raise CheckpointError(f"its metadata has a list of {count} strings: {MAX_STRINGS} are allowed")
            return [self._string() for _ in range(count)]
        if kind not in NUMBERS:
            raise CheckpointError(f"its metadata has a list of the type {kind}, which is not allowed")
        dtype = np.dtype(NUMBERS[kind])
        return np.frombuffer(self._bytes(self._count(dtype.itemsize, "numbers") * dtype.itemsize), dtype)

    def _tensor(self) -> tuple[str, tuple[tuple[int, ...], GgmlType, int]]:
        name, dimensions = self._string(), self._number("<u4")
        if not 0 < len(name) <= MAX_NAME or not name.isprintable():
            raise CheckpointError(f"a tensor is named {name[:MAX_NAME]!r}: 1 to {MAX_NAME} characters are allowed")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise CheckpointError(f"tensor {name} has {dimensions} axes: 1 to {MAX_DIMENSIONS} are allowed")
        shape = struct.unpack(f"<{dimensions}Q", self._bytes(8 * dimensions))[::-1]
        kind, offset = struct.unpack("<IQ", self._bytes(12))
        if kind not in TYPES:
            known = ", ".join(known.name for known in TYPES.values())
            raise CheckpointError(f"tensor {name} has type {OTHER_NAMES.get(kind, kind)}; these are read: {known}")
        if 0 in shape or shape[-1] % TYPES[kind].block_weights:
            raise CheckpointError(f"tensor {name} has the impossible shape {list(shape)} for {TYPES[kind].name}")
        return name, (shape, TYPES[kind], offset)

    def _placed(
        self, described: dict[str, tuple[tuple[int, ...], GgmlType, int]], alignment: Any
    ) -> dict[str, StoredTensor]:
        """The tensors with their places, which must lie inside the file and not overlap."""
        if not isinstance(alignment, int) or not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            raise CheckpointError(f"general.alignment is {alignment!r}: a power of two is expected")
        data = -(-(self._size - self._left) // alignment) * alignment
        placed = {name: StoredTensor(shape, kind, data + offset) for name, (shape, kind, offset) in described.items()}
        in_order = sorted(placed.items(), key=lambda item: item[1].start)
        for (name, one), (other, two) in pairwise(in_order):
            if one.start + one.size > two.start:
                raise CheckpointError(f"tensors {name} and {other} overlap")
        for name, stored in placed.items():
            if stored.start % alignment or stored.start + stored.size > self._size:
                raise CheckpointError(f"tensor {name} lies outside of the file: it is truncated or damaged")
        return placed


def _plain(number: Any) -> Any:
    """A Python number. One of float32 gets its shortest decimal form, such as 1e-05 instead of 9.99999974e-06."""
    return float(str(number)) if number.dtype == np.float32 else number.item()
