"""A quantized checkpoint seen as a plain one: a tensor is decoded when it is asked for, and not kept."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from model.checkpoints.safetensors_files import CheckpointError, CheckpointReader, TensorHeader

Settings = Mapping[str, Any]  # the `quantization_config` of a config.json


class Codec(Protocol):
    """How a format stores one tensor in several, and what these mean."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What names of stored tensors end in: first that of the codes, last one that no plain tensor has."""
        ...

    @property
    def plain_suffix(self) -> str:
        """What the name of the plain tensor has instead."""
        ...

    @property
    def code_dtype(self) -> torch.dtype: ...

    @property
    def plain_dtype(self) -> torch.dtype:
        """A type that holds every decoded value exactly, or (FP8) as exactly as it is defined."""
        ...

    @property
    def nearest_scheme(self) -> str:
        """The name of the scheme of ours that keeps about as many bits."""
        ...

    def shape(self, *parts: tuple[int, ...]) -> tuple[int, ...] | None:
        """The plain tensor's shape from those of its parts; None if these do not fit together."""
        ...

    def decode(self, *parts: Tensor) -> Tensor: ...


class DequantizingReader:
    """A `CheckpointReader` that hides how tensors are stored. What is not quantized passes through.

    Some GPTQ exporters give every matrix a bias of zeros, whether or not the model has one: those that are not in
    `wanted` are left out.
    """

    def __init__(self, reader: CheckpointReader, codec: Codec, wanted: Collection[str]) -> None:
        self._reader, self._codec = reader, codec
        self._parts = dict(_parts(reader.names(), codec))
        stored = {part for parts in self._parts.values() for part in parts}
        plain = (name for name in reader.names() if name not in stored)
        self._names = [*self._parts, *(name for name in plain if name in wanted or not self._is_filler(name))]

    def names(self) -> Collection[str]:
        return self._names

    def header(self, name: str) -> TensorHeader:
        if name not in self._parts:
            return self._reader.header(name)
        parts = self._parts[name]
        headers = [self._reader.header(part) for part in parts]
        shape = self._codec.shape(*(header.shape for header in headers))
        if shape is None or headers[0].dtype != self._codec.code_dtype:
            found = ", ".join(
                f"{part} {header.shape} {header.dtype}".replace("torch.", "")
                for part, header in zip(parts, headers, strict=True)
            )
            raise CheckpointError(f"tensor {name} is stored in parts that do not fit together: {found}")
        return TensorHeader(shape, self._codec.plain_dtype, sum(header.stored_bytes for header in headers))

    def get(self, name: str) -> Tensor:
        if name not in self._parts:
            return self._reader.get(name)
        parts = [self._reader.get(part) for part in self._parts[name]]
        try:
            return self._codec.decode(*parts)
        except (IndexError, RuntimeError) as error:
            raise CheckpointError(f"tensor {name} cannot be decoded: {error}") from error

    def _is_filler(self, name: str) -> bool:
        module, _, kind = name.rpartition(".")
        return kind == "bias" and f"{module}.weight" in self._parts and not self._reader.get(name).any()


def _parts(names: Collection[str], codec: Codec) -> Iterator[tuple[str, list[str]]]:
    """Each plain tensor's name, and the names of its parts in the codec's order."""
    there, mark = set(names), codec.suffixes[-1]
    for name in names:
        if name.endswith(mark):
            stem = name.removesuffix(mark)
            parts = [stem + suffix for suffix in codec.suffixes]
            for part in parts:
                if part not in there:
                    raise CheckpointError(f"tensor {part} is missing from the checkpoint: {name} belongs to it")
            yield stem + codec.plain_suffix, parts


def require(settings: Settings, key: str, value: Any, known: Collection[Any]) -> None:
    """Refuse a setting that would be read wrongly, naming what is known."""
    if value not in known:
        method = "" if key == "quant_method" else f" for quant_method {settings['quant_method']}"
        names = ", ".join(map(str, known))
        raise CheckpointError(f"{key} is {value!r} in quantization_config: known{method} are: {names}")
