"""Declarative rules: which tensors of a checkpoint make which of our parameters, in both directions.

A family is a list of rules, so the network does not know its tensor names. The same rule joins when loading and splits
when saving. Every merge also works on the device "meta", which is used to check shapes before anything is read.

Shapes: E experts, I input width, O output width.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor


class Merge(Protocol):
    """How the tensors of a rule are joined into one, and split again: split(join(tensors)) == tensors.

    `join` takes the tensors once and in order, so that they can be read one by one.
    """

    def join(self, tensors: Iterable[Tensor]) -> Tensor: ...
    def split(self, tensor: Tensor) -> list[Tensor]: ...


@dataclass(frozen=True, slots=True)
class Same:
    """One tensor under another name. `shape` (stored) and `ours` (parameter) are given if the shapes differ."""

    shape: tuple[int, ...] | None = None
    ours: tuple[int, ...] | None = None

    def join(self, tensors: Iterable[Tensor]) -> Tensor:
        (tensor,) = tensors
        return tensor if self.ours is None else tensor.reshape(self.ours)

    def split(self, tensor: Tensor) -> list[Tensor]:
        return [tensor if self.shape is None else tensor.reshape(self.shape)]


@dataclass(frozen=True, slots=True)
class Concat:
    """Tensors one after another, with `sizes` rows each. `dim` is 1 for stacked experts [E, O, I]."""

    sizes: tuple[int, ...]
    dim: int = 0

    def join(self, tensors: Iterable[Tensor]) -> Tensor:
        return _cat(list(tensors), self.dim)

    def split(self, tensor: Tensor) -> list[Tensor]:
        return list(tensor.split(self.sizes, self.dim))


@dataclass(frozen=True, slots=True)
class PerHead:
    """Tensors that store several parts head by head, where ours has one part after the other.

    `layouts`: (heads, sizes) per source, with `sizes[p]` rows of part p for each head. Our parameter has part 0 of all
    heads, then part 1 of all heads, and so on, source by source.
    """

    layouts: tuple[tuple[int, tuple[int, ...]], ...]

    def join(self, tensors: Iterable[Tensor]) -> Tensor:
        parts = []
        for tensor, (heads, sizes) in zip(tensors, self.layouts, strict=True):
            by_head = tensor.unflatten(0, (heads, sum(sizes)))
            parts += [part.flatten(0, 1) for part in by_head.split(sizes, dim=1)]
        return _cat(parts)

    def split(self, tensor: Tensor) -> list[Tensor]:
        parts = iter(tensor.split([heads * size for heads, sizes in self.layouts for size in sizes]))
        return [
            _cat([next(parts).unflatten(0, (heads, size)) for size in sizes], dim=1).flatten(0, 1)
            for heads, sizes in self.layouts
        ]


@dataclass(frozen=True, slots=True)
class Stack:
    """A group of tensors per expert, concatenated by rows: [E, sum(sizes), I], or [E, sum(sizes)] for biases."""

    experts: int
    sizes: tuple[int, ...]

    def join(self, tensors: Iterable[Tensor]) -> Tensor:
        groups = iter(tensors)
        first = self._next_expert(groups)
        stacked = first.new_empty(self.experts, *first.shape)
        stacked[0] = first
        for expert in range(1, self.experts):
            stacked[expert] = self._next_expert(groups)
        return stacked

    def split(self, tensor: Tensor) -> list[Tensor]:
        return [part for expert in tensor for part in expert.split(self.sizes)]

    def _next_expert(self, tensors: Iterator[Tensor]) -> Tensor:
        return _cat(list(islice(tensors, len(self.sizes))))


@dataclass(frozen=True, slots=True)
class Transpose:
    """One tensor that is stored [E, I, O] (or [I, O]), where ours is [E, O, I]."""

    def join(self, tensors: Iterable[Tensor]) -> Tensor:
        (tensor,) = tensors
        return tensor.mT

    def split(self, tensor: Tensor) -> list[Tensor]:
        return [tensor.mT]


@dataclass(frozen=True, slots=True)
class Interleaved:
    """One tensor that is stored g0, u0, g1, u1, ... along `dim`, where ours is g0, g1, ..., u0, u1, ...

    `dim` is -2 for the rows of a matrix, -1 for its columns and for biases. `parts` are interleaved.
    """

    dim: int = -2
    parts: int = 2

    def join(self, tensors: Iterable[Tensor]) -> Tensor:
        (tensor,) = tensors
        return self._swapped(tensor.unflatten(self.dim, (-1, self.parts)))

    def split(self, tensor: Tensor) -> list[Tensor]:
        return [self._swapped(tensor.unflatten(self.dim, (self.parts, -1)))]

    def _swapped(self, tensor: Tensor) -> Tensor:
        return tensor.transpose(self.dim - 1, self.dim).flatten(self.dim - 1, self.dim)


@dataclass(frozen=True, slots=True)
class PairedHeads:
    """The rows of one tensor by head: `before` unchanged rows, `rotary` rows, `after` unchanged rows."""

    heads: int
    before: int
    rotary: int
    after: int = 0

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.before, self.rotary, self.after


@dataclass(frozen=True, slots=True)
class RotaryPairs:
    """Rotary rows that are stored in pairs x0, y0, x1, y1, ..., where ours are halves x0, x1, ..., y0, y1, ...

    There is a layout per source; our parameter has the sources one after another.
    """

    layouts: tuple[PairedHeads, ...]

    def join(self, tensors: Iterable[Tensor]) -> Tensor:
        return _cat([_reorder_rotary(t, layout, (-1, 2)) for t, layout in zip(tensors, self.layouts, strict=True)])

    def split(self, tensor: Tensor) -> list[Tensor]:
        sources = tensor.split([layout.heads * sum(layout.sizes) for layout in self.layouts])
        return [_reorder_rotary(t, layout, (2, -1)) for t, layout in zip(sources, self.layouts, strict=True)]


def _reorder_rotary(tensor: Tensor, layout: PairedHeads, pairs: tuple[int, int]) -> Tensor:
    before, rotary, after = tensor.unflatten(0, (layout.heads, sum(layout.sizes))).split(layout.sizes, dim=1)
    rotary = rotary.unflatten(1, pairs).transpose(1, 2).flatten(1, 2)
    return _cat([before, rotary, after], dim=1).flatten(0, 1)


@dataclass(frozen=True, slots=True)
class Chain:
    """Several merges in a row. The first one takes the tensors of the checkpoint, the others take one tensor."""

    steps: tuple[Merge, ...]

    def join(self, tensors: Iterable[Tensor]) -> Tensor:
        first, *others = self.steps
        tensor = first.join(tensors)
        for step in others:
            tensor = step.join([tensor])
        return tensor

    def split(self, tensor: Tensor) -> list[Tensor]:
        tensors = [tensor]
        for step in reversed(self.steps):
            tensors = step.split(tensors[0])
        return tensors


def _cat(tensors: list[Tensor], dim: int = 0) -> Tensor:
    """torch.cat. On the device "meta" it is done here, because torch would import modules for 1.5 s."""
    if not tensors[0].is_meta:
        return torch.cat(tensors, dim)
    shape = list(tensors[0].shape)
    shape[dim] = sum(tensor.shape[dim] for tensor in tensors)
    return tensors[0].new_empty(shape)


@dataclass(frozen=True, slots=True)
class Rule:
    """`target`: the name of our parameter; `sources`: the tensors of the checkpoint that make it, in order."""

    target: str
    sources: tuple[str, ...]
    merge: Merge = Same()
