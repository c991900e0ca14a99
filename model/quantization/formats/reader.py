"""Reads a quantized checkpoint like a plain one. Tensors are dequantized on every read and not kept."""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from model.checkpoints.safetensors_files import CheckpointError, CheckpointReader, TensorHeader

Settings = Mapping[str, Any]  # the `quantization_config` of a config.json
Shape = tuple[int, ...]
# Scales for activations and caches that are quantized too, which ours are not
NOT_WEIGHTS = (
    ".input_scale", ".output_scale", ".activation_scale", ".q_scale", ".k_scale", ".v_scale", ".kv_scale",
    ".input_global_scale", ".input_zero_point", ".weight_format",
)  # fmt: skip

FLOATS = frozenset({torch.float32, torch.bfloat16, torch.float16})
EXPONENTS = frozenset({torch.uint8, torch.float8_e8m0fnu})  # of powers of two

logger = logging.getLogger(__name__)


class Codec(Protocol):
    """How a format stores one tensor as several, and how to dequantize them. Formats derive from it.

    The defaults are those of most formats: all parts are there, and make up the float32 `weight` of a module.
    """

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The ends of the stored names: first that of the codes, last one that does not occur in plain names."""
        ...

    @property
    def optional(self) -> tuple[str, ...]:
        """Those of the suffixes that may be missing; `shape` and `decode` get None for them."""
        return ()

    @property
    def plain_suffix(self) -> str:
        """The end of the plain tensor's name."""
        return ".weight"

    @property
    def code_dtype(self) -> torch.dtype: ...

    @property
    def scale_dtypes(self) -> Mapping[str, Collection[torch.dtype]]:
        """What the parts with these suffixes may be: the same bits mean other numbers in another type."""
        return {}

    @property
    def plain_dtype(self) -> torch.dtype:
        """A type that represents every dequantized value exactly, or (FP8) as exactly as it is defined."""
        return torch.float32

    @property
    def nearest_scheme(self) -> str:
        """The name of our scheme with about as many bits per weight."""
        ...

    def shape(self, *parts: Any) -> Shape | None:
        """The shape of the plain tensor, from those of its parts; None if these do not fit together."""
        ...

    def decode(self, *parts: Any) -> Tensor: ...


@runtime_checkable
class SelfDescribing(Protocol):
    """A codec whose last part is small and tells the shape of the plain tensor, which the others' shapes do not."""

    def described_shape(self, description: Tensor) -> Shape:
        """What `shape` gets in place of the shape of the last part."""
        ...


class DequantizingReader(CheckpointReader):
    """A `CheckpointReader` of the dequantized tensors. Tensors that are not quantized are passed through.

    Some GPTQ exporters write a bias of zeros for every matrix, even if the model has none: those that are not in
    `wanted` are left out. So are scales that are not of weights.
    """

    def __init__(self, reader: CheckpointReader, codec: Codec, wanted: Collection[str]) -> None:
        self._reader, self._codec = reader, codec
        self._parts = dict(_parts(reader.names(), codec))
        stored = {part for parts in self._parts.values() for part in parts if part is not None}
        plain = _weights([name for name in reader.names() if name not in stored], wanted)
        self._names = [*self._parts, *(name for name in plain if name in wanted or not self._is_filler(name))]

    def names(self) -> Collection[str]:
        return self._names

    def header(self, name: str) -> TensorHeader:
        if name not in self._parts:
            return self._reader.header(name)
        parts = self._parts[name]
        found = {part: self._reader.header(part) for part in parts if part is not None}
        shapes = [None if part is None else found[part].shape for part in parts]
        if isinstance(self._codec, SelfDescribing):
            shapes[-1] = self._codec.described_shape(self._reader.get(str(parts[-1])))
        shape = self._codec.shape(*shapes)
        if shape is None or not self._has_known_types(found):
            told = (f"{part} {header.shape} {header.type_name}" for part, header in found.items())
            raise CheckpointError(f"tensor {name} is stored in parts that do not fit together: {', '.join(told)}")
        return TensorHeader(shape, self._codec.plain_dtype, sum(header.stored_bytes for header in found.values()))

    def _has_known_types(self, found: Mapping[str, TensorHeader]) -> bool:
        """Of the parts by their names, the codes first."""
        scales = self._codec.scale_dtypes
        known = (
            header.dtype in scales[suffix]
            for part, header in found.items()
            for suffix in scales
            if part.endswith(suffix)
        )
        return next(iter(found.values())).dtype == self._codec.code_dtype and all(known)

    def get(self, name: str) -> Tensor:
        if name not in self._parts:
            return self._reader.get(name)
        parts = [None if part is None else self._reader.get(part) for part in self._parts[name]]
        try:
            return self._codec.decode(*parts)
        except (IndexError, RuntimeError) as error:
            raise CheckpointError(f"tensor {name} cannot be decoded: {error}") from error

    def _is_filler(self, name: str) -> bool:
        module, _, kind = name.rpartition(".")
        return kind == "bias" and f"{module}.weight" in self._parts and not self._reader.get(name).any()


def _weights(names: Sequence[str], wanted: Collection[str]) -> Iterator[str]:
    others = [name for name in names if name.endswith(NOT_WEIGHTS) and name not in wanted]
    if others:
        logger.info("%d scales of activations and caches are left out, such as %s", len(others), others[0])
    left_out = set(others)
    yield from (name for name in names if name not in left_out)


def _parts(names: Collection[str], codec: Codec) -> Iterator[tuple[str, list[str | None]]]:
    """The name of each plain tensor, and the names of its parts in the order of the codec; None for one not stored."""
    there, mark = set(names), codec.suffixes[-1]
    for name in names:
        if name.endswith(mark):
            stem = name.removesuffix(mark)
            for suffix in codec.suffixes:
                if stem + suffix not in there and suffix not in codec.optional:
                    raise CheckpointError(
                        f"tensor {stem + suffix} is missing from the checkpoint: {name} belongs to it"
                    )
            parts = [stem + suffix if stem + suffix in there else None for suffix in codec.suffixes]
            yield stem + codec.plain_suffix, parts


def require(settings: Settings, key: str, value: Any, known: Collection[Any]) -> None:
    """Raise CheckpointError for an unknown value of a setting, with the known ones."""
    if value not in tuple(known):  # of a dict too: `value` may be a list
        method = "" if key == "quant_method" else f" for quant_method {settings['quant_method']}"
        names = ", ".join(map(str, known))
        raise CheckpointError(f"{key} is {value!r} in quantization_config: known{method} are: {names}")
