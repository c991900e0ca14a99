"""Checkpoints on disk: safetensors files, read and written by declarative rules (rules.py).

Headers are read and checked before any weight, so most errors are reported at once. Weights are read with pread instead
of a memory map: mapped pages count as memory of this process until they are released one by one, and if a mapped file
is truncated, the process is killed instead of getting an exception.
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from model.checkpoints.gguf.directory import GgufDirectory
from model.checkpoints.reader import CheckpointError, CheckpointReader, TensorHeader
from model.checkpoints.rules import Rule
from model.files import Directory, read_object

__all__ = ["CheckpointError", "CheckpointReader", "TensorHeader", "open_checkpoint"]

INDEX_NAME = "model.safetensors.index.json"
CONFIG_NAME, QUANTIZATION = "config.json", "quantization_config"
EXPORT_NAME = "hf_quant_config.json"  # of TensorRT Model Optimizer
SINGLE_NAME = "model.safetensors"
OTHER_FORMATS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack", "*.npz")
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
logger = logging.getLogger(__name__)

COMPUTED = (".rotary_emb.inv_freq",)  # stored by old exporters, although it follows from the config
WEIGHT_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def open_checkpoint(directory: Directory) -> CheckpointReader:
    """Read the headers of all shards. CheckpointError for a missing or truncated shard, and for other formats."""
    if isinstance(directory, GgufDirectory):
        return directory.reader()
    assert isinstance(directory, Path)
    reader = SafetensorsReader(shards(directory))
    return PrefixReader(reader, "model.") if "embed_tokens.weight" in reader.names() else reader


def stored_bytes(directory: Directory) -> int:
    """The size of the files that hold the weights."""
    if isinstance(directory, GgufDirectory):
        return directory.stored_bytes
    assert isinstance(directory, Path)
    return sum(path.stat().st_size for path in shards(directory))


def read_config(directory: Directory) -> dict[str, Any]:
    """The content of config.json. CheckpointError if there is none.

    Exports of TensorRT Model Optimizer may say how they are quantized in a file of their own: that is added.
    """
    path, exported = directory / CONFIG_NAME, directory / EXPORT_NAME
    if not path.is_file():
        raise CheckpointError(f"{directory} is not a checkpoint: it has no config.json")
    config = read_object(path)
    text = config.get("text_config")
    if exported.is_file() and not any(part.get(QUANTIZATION) for part in (config, text) if isinstance(part, dict)):
        settings = read_object(exported).get("quantization") or {}
        if not isinstance(settings, dict):
            raise CheckpointError(f"quantization is {settings!r} in {exported}: an object is expected")
        if settings.get("quant_algo"):  # otherwise at most the cache was quantized
            config[QUANTIZATION] = {**settings, "quant_method": "modelopt"}
    return config


def shards(directory: Path) -> list[Path]:
    """The safetensors files of a checkpoint. CheckpointError for other formats, which can run code when opened."""
    index, single = directory / INDEX_NAME, directory / SINGLE_NAME
    if single.is_file() and index.is_file():
        logger.warning("%s and %s are both there: the former is read, as transformers does", SINGLE_NAME, INDEX_NAME)
    elif index.is_file():
        return _indexed_shards(directory, read_object(index))
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


class SafetensorsReader(CheckpointReader):
    """Reads one or several safetensors files as one checkpoint."""

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
        for name in shard.keys():  # noqa: SIM118 - not a dict
            if name in self._shards:
                raise CheckpointError(f"tensor {name} is both in {self._shards[name][0].name} and in {path.name}")
            self._shards[name] = path, shard
            self._headers[name] = _header(name, shard.get_slice(name))


class PrefixReader(CheckpointReader):
    """A checkpoint of a network without its head, such as an embedding model: its names lack the `prefix`."""

    def __init__(self, reader: CheckpointReader, prefix: str) -> None:
        self._reader, self._stored = reader, {prefix + name: name for name in reader.names()}

    def names(self) -> Collection[str]:
        return self._stored.keys()

    def header(self, name: str) -> TensorHeader:
        return self._reader.header(self._stored[name])

    def get(self, name: str) -> Tensor:
        return self._reader.get(self._stored[name])


def _header(name: str, stored: Any) -> TensorHeader:
    shape, code = tuple(stored.get_shape()), stored.get_dtype()
    if code not in DTYPES:
        raise CheckpointError(f"tensor {name} has the type {code}, which is not known: {', '.join(DTYPES)} are")
    return TensorHeader(shape, DTYPES[code], prod(shape) * DTYPES[code].itemsize)


def choose_layout(reader: CheckpointReader, layouts: Sequence[list[Rule]]) -> list[Rule]:
    """Of several layouts of the same network, the one with the most tensors in the checkpoint; the first of equals."""
    there = set(reader.names())
    return max(layouts, key=lambda rules: sum(name in there for rule in rules for name in rule.sources))


def check_headers(
    reader: CheckpointReader,
    rules: Collection[Rule],
    parameters: Mapping[str, Tensor],
    ignored: tuple[str, ...] = (),
) -> None:
    """Compare the rules with the headers of the checkpoint.

    Raises CheckpointError for the first tensor that is missing, unexpected, or of a shape or type that does not fit
    `parameters` (by our names; they may be on the device "meta"). Names that begin with one of `ignored` are allowed.
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
    """Read the tensors of a rule and join them, converted to `dtype`."""
    return rule.merge.join(reader.get(name).to(dtype) for name in rule.sources).contiguous()


def named_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; shared ones under all of their names."""
    return dict(network.named_parameters(remove_duplicate=False)) | dict(network.named_buffers())


def save_weights(
    network: nn.Module, rules: Iterable[Rule], directory: Path, dtypes: Mapping[str, torch.dtype] | None = None
) -> None:
    """Write one safetensors file. `dtypes`: the type to store, by our parameter name (default: its own)."""
    parameters = named_tensors(network)
    tensors: dict[str, Tensor] = {}
    for rule in rules:
        parameter = parameters[rule.target].detach()
        if dtypes and rule.target in dtypes:
            parameter = parameter.to(dtypes[rule.target])
        for name, tensor in zip(rule.sources, rule.merge.split(parameter), strict=True):
            if name in tensors:  # each rule that shares a source gives its part and zeros for the rest
                tensor = tensor + tensors[name]
            tensors[name] = tensor.clone(memory_format=torch.contiguous_format)
    directory.mkdir(parents=True, exist_ok=True)
    save_tensors(tensors, directory / SINGLE_NAME)


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file that everybody may read. OSError names it where that fails, on a full disk say."""
    try:
        save_file(dict(tensors), path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{path} was not written: {error}") from error
    path.chmod(0o644)  # save_file makes it private, but a container may serve it as another user
