"""The tensors of GGUF files under the names of our families, in their row order."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from model.checkpoints.gguf.architecture import Architecture, HfConfig, Join, only
from model.checkpoints.gguf.architectures import ARCHITECTURES
from model.checkpoints.gguf.file import GgufFile, StoredTensor
from model.checkpoints.reader import (
    CheckpointError,
    CheckpointReader,
    TensorHeader,
    check_experts,
    joined_codes_header,
    widest,
)
from model.kernels.matmul.codes import Codes, codes_header, join_codes

NOT_WEIGHTS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")  # are part of the config
_NAME = re.compile(r"(?:blk\.(\d+)\.)?(.+?)(\.weight|\.bias|)")


@dataclass(frozen=True, slots=True)
class Source:
    """A tensor of a GGUF file, or one expert of it."""

    name: str
    expert: int | None = None


@dataclass(frozen=True, slots=True)
class MappedTensor:
    """What a tensor of the family is made of."""

    target: str
    sources: tuple[Source, ...]
    join: Join = only


class GgufReader(CheckpointReader):
    """A `CheckpointReader` of one or several files of a model, with the names of its family."""

    def __init__(self, files: Iterable[GgufFile], architecture: str, hf_config: HfConfig) -> None:
        self._files = {name: file for file in files for name in file.tensors}
        stored = {name: file.tensors[name] for name, file in self._files.items()}
        found = _mapped(stored, architecture, hf_config)
        self._tensors = {tensor.target: tensor for tensor in found}

    def names(self) -> Collection[str]:
        return self._tensors.keys()

    def header(self, name: str) -> TensorHeader:
        tensor = self._tensors[name]
        headers = [self._stored_header(source) for source in tensor.sources]
        plain = [torch.empty(header.shape, dtype=header.dtype, device="meta") for header in headers]
        try:
            joined = tensor.join(plain)
        except (RuntimeError, ValueError):
            pairs = zip(tensor.sources, headers, strict=True)
            shapes = ", ".join(f"{source.name} {header.shape}" for source, header in pairs)
            raise CheckpointError(
                f"tensor {name} is stored with a shape that the metadata excludes: {shapes}"
            ) from None
        stored_bytes = sum(header.stored_bytes for header in headers)
        return TensorHeader(
            shape=tuple(joined.shape),
            dtype=joined.dtype,
            stored_bytes=stored_bytes,
            stored_type=headers[0].stored_type,
            format=widest(headers),
            codes=joined_codes_header(tensor.join, headers),
        )

    def get(self, name: str) -> Tensor:
        tensor = self._tensors[name]
        return tensor.join([self._files[source.name].read(source.name, source.expert) for source in tensor.sources])

    def codes(self, name: str) -> Codes:
        tensor = self._tensors[name]
        parts = [self._files[source.name].read_codes(source.name, source.expert) for source in tensor.sources]
        return join_codes(tensor.join, parts)

    def _stored_header(self, source: Source) -> TensorHeader:
        stored = self._files[source.name].tensors[source.name]
        stored = stored if source.expert is None else stored.part(source.expert)
        kind = stored.type
        codes = None if kind.codes is None or kind.format is None else codes_header(kind.format, stored.shape)
        return TensorHeader(stored.shape, kind.dtype, stored.size, kind.name, kind.format, codes)


def _mapped(stored: Mapping[str, StoredTensor], architecture: str, hf: HfConfig) -> Iterator[MappedTensor]:
    """All tensors of the family. Unknown ones keep their names, and are refused with these."""
    table, fused = ARCHITECTURES[architecture](hf), {}
    parts_of = {part: rule for rule in table.fused for part in rule.parts}
    for name in stored:
        if name in NOT_WEIGHTS:
            continue
        match = _NAME.fullmatch(name)
        assert match is not None
        layer, part, suffix = match.groups()
        if layer is not None and int(layer) >= hf["num_hidden_layers"]:
            continue  # multi-token prediction
        prefix = f"{table.layers}.{layer}." if layer is not None else ""
        rule = parts_of.get(part + suffix)
        if rule is not None and all(f"blk.{layer}.{other}" in stored for other in rule.parts):
            sources = tuple(Source(f"blk.{layer}.{other}") for other in rule.parts)
            fused[prefix + rule.target] = MappedTensor(prefix + rule.target, sources, rule.join)
            continue
        yield from _renamed(table, name, prefix, part, suffix, stored[name])
    yield from fused.values()


def _renamed(
    table: Architecture, name: str, prefix: str, part: str, suffix: str, stored: StoredTensor
) -> Iterator[MappedTensor]:
    whole, stem = table.names.get(part + suffix), table.names.get(part)
    target = whole if whole is not None else None if stem is None else stem + suffix
    join = table.joins.get(part + suffix) or table.joins.get(part) or only
    if target is None:
        yield MappedTensor(name, (Source(name),))
    elif "{expert}" in target:
        check_experts(stored.shape[0], stored.size, f"tensor {name}")
        for expert in range(stored.shape[0]):
            yield MappedTensor(prefix + target.format(expert=expert), (Source(name, expert),), join)
    else:
        yield MappedTensor(prefix + target, (Source(name),), join)
