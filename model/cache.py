"""What layers cache, and where: keys and values in blocks of tokens, recurrent state in one row per sequence.

Shapes: N blocks, P tokens a block, G key/value heads, D head width, V value width, R state rows.
"""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class KVSpec:
    """A layer that caches a key and a value per token and head."""

    num_kv_heads: int
    head_dim: int

    def bytes_per_token(self, dtype: torch.dtype) -> int:
        return 2 * self.num_kv_heads * self.head_dim * dtype.itemsize


@dataclass(frozen=True, slots=True)
class LatentSpec:
    """A layer that caches one vector per token: the key, whose first coordinates are the value."""

    key_dim: int
    value_dim: int

    def bytes_per_token(self, dtype: torch.dtype) -> int:
        return self.key_dim * dtype.itemsize


@dataclass(frozen=True, slots=True)
class StateSpec:
    """A layer that keeps float32 tensors of a fixed shape per sequence: (name, shape) each."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    def bytes_per_sequence(self) -> int:
        return sum(4 * prod(shape) for _, shape in self.shapes)


TokenSpec = KVSpec | LatentSpec
CacheSpec = TokenSpec | StateSpec


class CacheStorage:
    """The cache tensors of all layers. Which sequence owns which block or row is decided elsewhere.

    `num_blocks` blocks of `block_size` tokens hold keys and values, `num_rows` rows hold recurrent state. State rows
    are zero at first.
    """

    def __init__(
        self,
        specs: Sequence[CacheSpec],
        *,
        num_blocks: int,
        block_size: int,
        num_rows: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        self.block_size = block_size
        self._keys: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}
        self._value_widths: dict[int, int] = {}
        self._states: dict[int, dict[str, Tensor]] = {}
        # Blocks are never read before they are written, so the memory of unused ones is never taken.
        for layer, spec in enumerate(specs):
            if isinstance(spec, KVSpec):
                shape = (num_blocks, block_size, spec.num_kv_heads, spec.head_dim)
                self._keys[layer] = torch.empty(shape, dtype=dtype, device=device)
                self._values[layer] = torch.empty(shape, dtype=dtype, device=device)
            elif isinstance(spec, LatentSpec):
                shape = (num_blocks, block_size, 1, spec.key_dim)
                self._keys[layer] = torch.empty(shape, dtype=dtype, device=device)
                self._value_widths[layer] = spec.value_dim
            else:
                self._states[layer] = {
                    name: _lazy_zeros((num_rows, *shape), torch.device(device)) for name, shape in spec.shapes
                }

    def keys_NPGD(self, layer: int) -> Tensor:
        return self._keys[layer]

    def values_NPGV(self, layer: int) -> Tensor:
        """The values of a layer: a view of its keys if they are a part of them."""
        if layer in self._values:
            return self._values[layer]
        return self._keys[layer][..., : self._value_widths[layer]]

    def stores_values(self, layer: int) -> bool:
        """Whether the values have a tensor of their own."""
        return layer in self._values

    def state(self, layer: int, name: str) -> Tensor:
        """All rows of a state tensor: [R, *shape]."""
        return self._states[layer][name]

    def zero_row(self, row: int) -> None:
        """Reset a state row, so that nothing leaks to the next sequence that owns it."""
        for tensor in self._state_tensors():
            tensor[row].zero_()

    def copy_row(self, source: int, target: int) -> None:
        for tensor in self._state_tensors():
            tensor[target].copy_(tensor[source])

    def copy_block(self, source: int, target: int, num_tokens: int) -> None:
        """Copy the first `num_tokens` keys and values of a block, in every layer."""
        for tensor in (*self._keys.values(), *self._values.values()):
            tensor[target, :num_tokens].copy_(tensor[source, :num_tokens])

    def _state_tensors(self) -> list[Tensor]:
        return [tensor for tensors in self._states.values() for tensor in tensors.values()]


def _lazy_zeros(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Zeros, float32. On a CPU they are fresh pages of the system, which take memory when they are first written."""
    if device.type != "cpu" or prod(shape) == 0:
        return torch.zeros(shape, dtype=torch.float32, device=device)
    pages = mmap.mmap(-1, 4 * prod(shape), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=torch.float32).view(shape)


def bytes_per_block(specs: Sequence[CacheSpec], block_size: int, dtype: torch.dtype) -> int:
    """Bytes of one block of keys and values, over all layers."""
    return block_size * sum(spec.bytes_per_token(dtype) for spec in specs if isinstance(spec, TokenSpec))


def bytes_per_row(specs: Sequence[CacheSpec]) -> int:
    """Bytes of the recurrent state of one sequence, over all layers."""
    return sum(spec.bytes_per_sequence() for spec in specs if isinstance(spec, StateSpec))
