"""What every kind of checkpoint offers: its tensors by name."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded; the message names the file or tensor."""


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """Shape and type of a tensor, known without reading it. `stored_bytes` is its size on disk.

    `dtype` is what `get` returns. `stored_type` is its name on disk where that differs, such as "Q4_0".
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    stored_bytes: int
    stored_type: str = ""

    @property
    def type_name(self) -> str:
        return self.stored_type or str(self.dtype).removeprefix("torch.")


class CheckpointReader(Protocol):
    """The tensors of a checkpoint by name. Readers can wrap another: to dequantize, to check, to report progress.

    Every call of `get` reads the tensor again, into new memory.
    """

    def names(self) -> Collection[str]: ...
    def header(self, name: str) -> TensorHeader: ...
    def get(self, name: str) -> Tensor: ...
