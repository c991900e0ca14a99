"""What every kind of checkpoint offers: its tensors by name."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from model.kernels.matmul.codes import Codes, Format, join_codes


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded; the message names the file or tensor."""


MIN_EXPERT_BYTES = 64  # an expert has more; here it takes a few hundred bytes of memory before anything is read


def check_experts(count: int, stored_bytes: int, where: str) -> None:
    """CheckpointError where so many experts cannot be stored in so few bytes."""
    if count * MIN_EXPERT_BYTES > stored_bytes:
        raise CheckpointError(f"{where} is too small, with {stored_bytes} bytes, for {count} experts")


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """Shape and type of a tensor, known without reading it. `stored_bytes` is its size on disk.

    `dtype` is what `get` returns. `stored_type` is its name on disk where that differs, such as "Q4_0". `format` is the
    nearest one of a quantized tensor; `codes` has the shapes of what `codes` of the reader returns, None if nothing.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    stored_bytes: int
    stored_type: str = ""
    format: Format | None = None
    codes: Codes | None = None

    @property
    def type_name(self) -> str:
        return self.stored_type or str(self.dtype).removeprefix("torch.")


class CheckpointReader(Protocol):
    """The tensors of a checkpoint by name. Readers can wrap another: to dequantize, to check, to report progress.

    Every call of `get` and `codes` reads the tensor again, into new memory.
    """

    def names(self) -> Collection[str]: ...
    def header(self, name: str) -> TensorHeader: ...
    def get(self, name: str) -> Tensor: ...

    def codes(self, name: str) -> Codes:
        """A tensor whose header has codes, without dequantizing it."""
        raise TypeError(f"tensor {name} is not stored as codes")


def widest(headers: Sequence[TensorHeader]) -> Format | None:
    """The format with the most bits; None if one of the tensors is not quantized."""
    formats = [header.format for header in headers if header.format is not None]
    return max(formats, key=lambda format: format.bits_per_weight) if len(formats) == len(headers) else None


def joined_codes_header(join: Callable[[list[Tensor]], Tensor], headers: Sequence[TensorHeader]) -> Codes | None:
    """The header of the codes of tensors that are joined. None where `join` fails, because it mixes inputs.

    Values and scales have different widths, so what changes the order or number of inputs does not fit both.
    """
    parts = [header.codes for header in headers if header.codes is not None]
    if len(parts) < len(headers) or len({part.format for part in parts}) > 1:
        return None
    try:
        return join_codes(join, parts)
    except (RuntimeError, ValueError):
        return None
