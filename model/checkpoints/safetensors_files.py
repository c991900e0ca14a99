"""Checkpoints on disk: safetensors only, described by declarative rules (rules.py), read once and written.

What a checkpoint holds is known from its headers before any weight is read, and everything that can be wrong with it
is said then. Weights are read by position, not by memory map: pages of a map count as this process's memory until they
are given back one by one, and a file that shrinks under a map ends the process instead of raising.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from model.checkpoints.rules import (
    Chain,
    Concat,
    Interleaved,
    Merge,
    PairedHeads,
    PerHead,
    RotaryPairs,
    Rule,
    Same,
    Stack,
    Transpose,
)
from model.files import read_object

__all__ = [
    "Chain", "CheckpointError", "CheckpointReader", "Concat", "Interleaved", "Merge", "PairedHeads", "PerHead",
    "RotaryPairs", "Rule", "Same", "Stack", "Transpose", "open_checkpoint",
]  # fmt: skip

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
OTHER_FORMATS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.gguf", "*.h5", "*.msgpack", "*.npz")
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
COMPUTED = (".rotary_emb.inv_freq",)  # what old exporters store beside the weights though it follows from the config
WEIGHT_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded; the message names the file or tensor."""


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """What is known of a tensor without reading it. `stored_bytes` is what it takes on disk."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    stored_bytes: int


class CheckpointReader(Protocol):
    """The tensors of a checkpoint by name. A reader may wrap another: to decode quantized tensors, to check, to count.

    `get` reads the tensor into memory of its own, each time it is called; call it once.
    """

    def names(self) -> Collection[str]: ...
    def header(self, name: str) -> TensorHeader: ...
    def get(self, name: str) -> Tensor: ...


def open_checkpoint(directory: Path) -> CheckpointReader:
    """Read the headers of all shards. CheckpointError for a shard that is missing or cut short, and other formats."""
    return SafetensorsReader(shards(directory))


def read_config(directory: Path) -> dict[str, Any]:
    """config.json of a checkpoint directory."""
    path = directory / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{directory} is no checkpoint: it has no config.json")
    return read_object(path)


def shards(directory: Path) -> list[Path]:
    """The safetensors files of a checkpoint; refuses other formats, which can run code when they are opened."""
    index = directory / INDEX_NAME
    if index.is_file():
        return _indexed_shards(directory, read_object(index))
    single = directory / SINGLE_NAME
    paths = [single] if single.is_file() else sorted(directory.glob("*.safetensors"))
    if paths:
        return paths
    others = [path.name for pattern in OTHER_FORMATS for path in sorted(directory.glob(pattern))]
    if others:
        raise CheckpointError(
            f"{directory} holds {others[0]} but no .safetensors file: other weight formats are not loaded, because "
            "some of them run code when they are opened; convert it to safetensors first"
        )
    raise CheckpointError(f"{directory} holds no .safetensors file")


def _indexed_shards(directory: Path, index: dict[str, Any]) -> list[Path]:
    shard_of = index.get("weight_map")
    if not isinstance(shard_of, dict):
        raise CheckpointError(f"{INDEX_NAME} has no weight_map, which says which file holds which tensor")
    names = sorted({str(name) for name in shard_of.values()})
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{INDEX_NAME} names {name!r}, which lies outside of {directory}")
        if not (directory / name).is_file():
            raise CheckpointError(f"{name} is named in {INDEX_NAME} but missing from {directory}")
    return [directory / name for name in names]


class SafetensorsReader:
    """One or several safetensors files as one."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._shards: dict[str, tuple[Path, Any]] = {}
        self._headers: dict[str, TensorHeader] = {}
        for path in paths:
            self._open(path)

    def names(self) -> Collection[str]:
        return self._headers.keys()

    def header(self, name: str) -> TensorHeader:
        return self._headers[name]

    def get(self, name: str) -> Tensor:
        path, shard = self._shards[name]
        try:
            tensor: Tensor = shard.get_tensor(name)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise CheckpointError(f"tensor {name} cannot be read from {path.name}: {error}") from error
        return tensor

    def _open(self, path: Path) -> None:
        try:
            shard = safe_open(path, framework="pt", backend="pread")
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path.name} cannot be read as safetensors: {error}") from error
        for name in shard.keys():  # noqa: SIM118 - it is no dict
            if name in self._shards:
                raise CheckpointError(f"tensor {name} is both in {self._shards[name][0].name} and in {path.name}")
            self._shards[name] = path, shard
            self._headers[name] = _header(name, shard.get_slice(name))


def _header(name: str, stored: Any) -> TensorHeader:
    shape, code = tuple(stored.get_shape()), stored.get_dtype()
    if code not in DTYPES:
        raise CheckpointError(f"tensor {name} has the type {code}, which is not known: {', '.join(DTYPES)} are")
    return TensorHeader(shape, DTYPES[code], prod(shape) * DTYPES[code].itemsize)


def choose_layout(reader: CheckpointReader, layouts: Sequence[list[Rule]]) -> list[Rule]:
    """Of several ways to store the same network the one of which the most tensors are there; the first of equals."""
    there = set(reader.names())
    return max(layouts, key=lambda rules: sum(name in there for rule in rules for name in rule.sources))


def check_headers(
    reader: CheckpointReader,
    rules: Collection[Rule],
    parameters: Mapping[str, Tensor],
    ignored: tuple[str, ...] = (),
) -> None:
    """Compare what the rules ask for with what is there, before anything is read.

    Raises CheckpointError for the first tensor that is missing, unexpected, or of another shape or type than
    `parameters` (by our names, without data if need be) are made of. Names that begin with one of `ignored` may be
    there unasked.
    """
    there, wanted = set(reader.names()), [name for rule in rules for name in rule.sources]
    for name in wanted:
        if name not in there:
            raise CheckpointError(f"tensor {name} is missing from the checkpoint")
    for name in sorted(there.difference(wanted)):
        if not name.startswith(ignored) and not name.endswith(COMPUTED):
            raise CheckpointError(f"the checkpoint has a tensor that this model does not: {name}")
    for rule in rules:
        expected = rule.merge.split(torch.empty(parameters[rule.target].shape, device="meta"))
        for name, tensor in zip(rule.sources, expected, strict=True):
            _check_header(name, reader.header(name), tensor)


def _check_header(name: str, header: TensorHeader, expected: Tensor) -> None:
    shape = tuple(expected.shape)
    if header.shape != shape:
        raise CheckpointError(f"tensor {name} has shape {header.shape} where the config asks for {shape}")
    if header.dtype not in WEIGHT_DTYPES:
        kinds = ", ".join(str(dtype).removeprefix("torch.") for dtype in WEIGHT_DTYPES)
        found = str(header.dtype).removeprefix("torch.")
        raise CheckpointError(f"tensor {name} has type {found} where weights are expected ({kinds})")


def read_parameter(reader: CheckpointReader, rule: Rule, dtype: torch.dtype) -> Tensor:
    """Read what a rule names and join it, in that type."""
    return rule.merge.join(reader.get(name).to(dtype) for name in rule.sources).contiguous()


def named_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; those that are shared, by all their names."""
    return dict(network.named_parameters(remove_duplicate=False)) | dict(network.named_buffers())


def save_weights(
    network: nn.Module, rules: Iterable[Rule], directory: Path, dtypes: Mapping[str, torch.dtype] | None = None
) -> None:
    """Write one safetensors file; `dtypes` may give the stored type by our parameter's name (default: as it is)."""
    parameters = named_tensors(network)
    tensors: dict[str, Tensor] = {}
    for rule in rules:
        parameter = parameters[rule.target].detach()
        if dtypes and rule.target in dtypes:
            parameter = parameter.to(dtypes[rule.target])
        for name, tensor in zip(rule.sources, rule.merge.split(parameter), strict=True):
            if name in tensors:  # rules that share a source each give a part of it, and zeros for the rest
                tensor = tensor + tensors[name]
            tensors[name] = tensor.clone(memory_format=torch.contiguous_format)
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / SINGLE_NAME, metadata={"format": "pt"})
    (directory / SINGLE_NAME).chmod(0o644)  # the writer makes it private; a container serves it as another user
