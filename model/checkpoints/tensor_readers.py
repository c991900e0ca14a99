"""Readers that wrap a `CheckpointReader`: to check values, to read each tensor once, to report progress."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from math import isfinite
from typing import TypeVar

import torch
from torch import Tensor

from model.checkpoints.reader import CheckpointError, CheckpointReader
from model.checkpoints.rules import Rule
from model.kernels.matmul.codes import Codes

T = TypeVar("T")
Progress = Callable[[int, int], None]  # bytes read so far, bytes in total


class FiniteCheckReader:
    """Raises CheckpointError for NaN and infinite weights."""

    def __init__(self, reader: CheckpointReader) -> None:
        self.names, self.header, self._reader = reader.names, reader.header, reader

    def get(self, name: str) -> Tensor:
        tensor = self._reader.get(name)
        if tensor.is_floating_point() and tensor.numel() and not all(map(isfinite, torch.aminmax(tensor.flatten()))):
            raise CheckpointError(f"tensor {name} holds NaN or infinite weights: the checkpoint is damaged")
        return tensor

    def codes(self, name: str) -> Codes:
        codes = self._reader.codes(name)
        for numbers in (codes.scales, codes.minima):
            if numbers is not None and not numbers.isfinite().all():
                raise CheckpointError(f"tensor {name} holds NaN or infinite scales: the checkpoint is damaged")
        return codes


class ReadOnceReader:
    """Reads each tensor once. Tensors that several rules share are kept until the last of them has read it."""

    def __init__(self, reader: CheckpointReader, rules: Iterable[Rule]) -> None:
        self.names, self.header, self._reader = reader.names, reader.header, reader
        self._pending_reads = Counter(name for rule in rules for name in rule.sources)
        self._kept: dict[str, Tensor] = {}
        self._kept_codes: dict[str, Codes] = {}

    def get(self, name: str) -> Tensor:
        return self._read(name, self._reader.get, self._kept)

    def codes(self, name: str) -> Codes:
        return self._read(name, self._reader.codes, self._kept_codes)

    def _read(self, name: str, read: Callable[[str], T], kept: dict[str, T]) -> T:
        found = kept.pop(name) if name in kept else read(name)
        self._pending_reads[name] -= 1
        if self._pending_reads[name]:
            kept[name] = found
        return found


class ProgressReader:
    """Reports how many bytes of the `wanted` tensors have been read."""

    def __init__(self, reader: CheckpointReader, wanted: Collection[str], progress: Progress) -> None:
        self.names, self.header, self._reader, self._progress = reader.names, reader.header, reader, progress
        self._read, self._total = 0, sum(reader.header(name).stored_bytes for name in wanted)

    def get(self, name: str) -> Tensor:
        tensor = self._reader.get(name)
        self._report(name)
        return tensor

    def codes(self, name: str) -> Codes:
        codes = self._reader.codes(name)
        self._report(name)
        return codes

    def _report(self, name: str) -> None:
        self._read += self.header(name).stored_bytes
        self._progress(self._read, self._total)
