"""Checkpoints on disk: safetensors only, read by memory map, described by declarative rules, both ways.

A rule says which tensors of a checkpoint make one parameter of ours. A family is a list of rules; the network never
learns a family's names. Loading joins, saving splits, with the same rule.
"""

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"


class Merge(Protocol):
    """How several tensors become one, and back."""

    def join(self, tensors: list[Tensor]) -> Tensor: ...
    def split(self, tensor: Tensor) -> list[Tensor]: ...


@dataclass(frozen=True, slots=True)
class Same:
    """One tensor, renamed; `shape` is what the checkpoint stores (None: as ours)."""

    shape: tuple[int, ...] | None = None
    ours: tuple[int, ...] | None = None

    def join(self, tensors: list[Tensor]) -> Tensor:
        return tensors[0] if self.ours is None else tensors[0].reshape(self.ours)

    def split(self, tensor: Tensor) -> list[Tensor]:
        return [tensor if self.shape is None else tensor.reshape(self.shape)]


@dataclass(frozen=True, slots=True)
class Concat:
    """Rows of the first tensor, then of the next: `sizes` rows each."""

    sizes: tuple[int, ...]

    def join(self, tensors: list[Tensor]) -> Tensor:
        return torch.cat(tensors)

    def split(self, tensor: Tensor) -> list[Tensor]:
        return list(tensor.split(self.sizes))


@dataclass(frozen=True, slots=True)
class PerHead:
    """Tensors that store their parts head by head, where ours stores each part whole.

    A layout (heads, sizes) per source: for each of its heads in turn, `sizes[p]` rows of each part p. Ours holds part 0
    of all heads, then part 1 of all heads, and so on, source after source.
    """

    layouts: tuple[tuple[int, tuple[int, ...]], ...]

    def join(self, tensors: list[Tensor]) -> Tensor:
        parts = []
        for tensor, (heads, sizes) in zip(tensors, self.layouts, strict=True):
            by_head = tensor.unflatten(0, (heads, sum(sizes)))
            parts += [part.flatten(0, 1) for part in by_head.split(sizes, dim=1)]
        return torch.cat(parts)

    def split(self, tensor: Tensor) -> list[Tensor]:
        parts = iter(tensor.split([heads * size for heads, sizes in self.layouts for size in sizes]))
        return [
            torch.cat([next(parts).unflatten(0, (heads, size)) for size in sizes], dim=1).flatten(0, 1)
            for heads, sizes in self.layouts
        ]


@dataclass(frozen=True, slots=True)
class Stack:
    """Per expert a group of tensors, concatenated by rows: [expert, sum(sizes), inputs]."""

    experts: int
    sizes: tuple[int, ...]

    def join(self, tensors: list[Tensor]) -> Tensor:
        width = len(self.sizes)
        return torch.stack([torch.cat(tensors[width * e : width * (e + 1)]) for e in range(self.experts)])

    def split(self, tensor: Tensor) -> list[Tensor]:
        return [part for expert in tensor for part in expert.split(self.sizes)]


@dataclass(frozen=True, slots=True)
class Rule:
    """`target`: our parameter; `sources`: the checkpoint's tensors that make it, in order."""

    target: str
    sources: tuple[str, ...]
    merge: Merge = Same()


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded; the message names the file or tensor."""


def read_config(directory: Path) -> dict[str, object]:
    """config.json of a checkpoint directory."""
    path = directory / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{directory} is no checkpoint: it has no config.json")
    loaded: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def shards(directory: Path) -> list[Path]:
    """The safetensors files of a checkpoint; refuses other formats, which can run code when they are opened."""
    index = directory / INDEX_NAME
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        paths = [directory / name for name in names]
    else:
        paths = sorted(directory.glob("*.safetensors"))
    if not paths:
        raise CheckpointError(f"{directory} holds no .safetensors file; other weight formats are not loaded")
    for path in paths:
        if not path.is_file():
            raise CheckpointError(f"{path.name} is named in {INDEX_NAME} but missing from {directory}")
    return paths


def load_weights(network: nn.Module, rules: Iterable[Rule], directory: Path) -> None:
    """Fill every parameter and buffer of `network` that a rule names; raises CheckpointError on anything amiss."""
    parameters = dict(network.named_parameters()) | dict(network.named_buffers())
    with ExitStack() as stack:
        places: dict[str, Any] = {}
        for path in shards(directory):
            try:
                shard = stack.enter_context(safe_open(path, framework="pt"))
            except Exception as error:
                raise CheckpointError(f"{path.name} cannot be read as safetensors: {error}") from error
            places |= dict.fromkeys(shard.keys(), shard)
        for rule in rules:
            missing = [name for name in rule.sources if name not in places]
            if missing:
                raise CheckpointError(f"tensor {missing[0]} is missing from the checkpoint in {directory}")
            tensors = [places.pop(name).get_tensor(name) for name in rule.sources]
            _fill(parameters[rule.target], rule, tensors)
        if places:
            raise CheckpointError(f"the checkpoint has a tensor that this model does not: {sorted(places)[0]}")


def _fill(parameter: Tensor, rule: Rule, tensors: list[Tensor]) -> None:
    try:
        joined = rule.merge.join(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{rule.sources[0]} has an unexpected shape {tuple(tensors[0].shape)}") from error
    if joined.shape != parameter.shape:
        shape, expected = tuple(joined.shape), tuple(parameter.shape)
        raise CheckpointError(f"{rule.sources[0]} has shape {shape} where the config asks for {expected}")
    parameter.data.copy_(joined)


def save_weights(
    network: nn.Module, rules: Iterable[Rule], directory: Path, dtypes: Mapping[str, torch.dtype] | None = None
) -> None:
    """Write one safetensors file; `dtypes` may give the stored type by our parameter's name (default: as it is)."""
    parameters = dict(network.named_parameters(remove_duplicate=False)) | dict(network.named_buffers())
    tensors: dict[str, Tensor] = {}
    for rule in rules:
        parameter = parameters[rule.target].detach()
        if dtypes and rule.target in dtypes:
            parameter = parameter.to(dtypes[rule.target])
        for name, tensor in zip(rule.sources, rule.merge.split(parameter), strict=True):
            tensors[name] = tensor.clone().contiguous()
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / SINGLE_NAME, metadata={"format": "pt"})
    (directory / SINGLE_NAME).chmod(0o644)  # the writer makes it private; a container serves it as another user
