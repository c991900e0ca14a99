"""`routelm quantize`: reads a checkpoint tensor by tensor and writes it quantized.

Only one matrix and the tensors of the current output file are in memory at a time.
"""

import json
from collections.abc import Collection, Iterator
from fnmatch import fnmatch
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoints.hub import SETTINGS
from model.checkpoints.rules import Rule
from model.checkpoints.safetensors_files import (
    CONFIG_NAME,
    EXPORT_NAME,
    INDEX_NAME,
    CheckpointError,
    CheckpointReader,
    named_tensors,
    read_parameter,
    save_tensors,
)
from model.checkpoints.tensor_readers import Progress, ProgressReader, ReadOnceReader
from model.files import Directory
from model.kernels.matmul.codes import Codes
from model.loading.freeze import is_matrix, scheme_of
from model.loading.load import ModelDescription, describe, open_layout
from model.loading.stored_codes import read_codes
from model.quantization import Scheme, ours
from model.text.chat_template import TOOL_USE_NAME

SHARD_BYTES = 1 << 30


def quantize_checkpoint(
    source: Directory,
    target: Path,
    scheme: Scheme,
    dtype: torch.dtype = torch.bfloat16,
    progress: Progress | None = None,
) -> None:
    """Write a quantized checkpoint to `target`.

    It generates the same tokens as `source` loaded with that scheme and `dtype`. Tensors that are not quantized are
    stored as `dtype`. Raises CheckpointError if the source cannot be loaded, ValueError if the target is not empty.
    """
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"{target} is not empty: name a new directory")
    model = describe(source, dtype)
    if ours.scheme_name(model.hf_config):
        raise CheckpointError(
            f"{source} is quantized already, by this program: start from the checkpoint it was made from"
        )
    reader, rules = open_layout(source, model)
    if progress:
        reader = ProgressReader(reader, {name for rule in rules for name in rule.sources}, progress)
    target.mkdir(parents=True, exist_ok=True)
    write_shards(target, _stored(model, ReadOnceReader(reader, rules), rules, scheme))
    copy_companions(source, target)
    config = {**model.hf_config, "quantization_config": ours.settings(scheme.name)}
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _stored(
    model: ModelDescription, reader: CheckpointReader, rules: list[Rule], scheme: Scheme
) -> Iterator[tuple[str, Tensor]]:
    """All tensors to store, in the order of the rules."""
    network, parameters = model.network, named_tensors(model.network)
    for rule in rules:
        dtype = parameters[rule.target].dtype
        if not is_matrix(network, rule.target):
            yield rule.target, read_parameter(reader, rule, dtype)
            continue
        owner, weight = rule.target.removesuffix(".weight"), None
        codes = read_codes(network, reader, rule, scheme)
        if codes is None:
            weight = read_parameter(reader, rule, dtype)
            codes = scheme_of(network, owner, scheme).quantize(weight)
        yield from _named(codes, "head" if owner == "embedding" else owner)
        if owner == "embedding":
            yield rule.target, codes.dequantized(dtype) if weight is None else weight


def _named(codes: Codes, module: str) -> Iterator[tuple[str, Tensor]]:
    for leaf, tensor in ours.code_tensors(codes).items():
        yield f"{module}.{leaf}", tensor


def write_shards(target: Path, tensors: Iterator[tuple[str, Tensor]]) -> None:
    """Write files of about SHARD_BYTES, and the index of which tensor is in which file."""
    places: dict[str, str] = {}
    pending: dict[str, Tensor] = {}

    def flush() -> None:
        name = f"model-{len(set(places.values())) + 1:05}.safetensors"
        save_tensors(pending, target / name)
        places.update(dict.fromkeys(pending, name))
        pending.clear()

    for name, tensor in tensors:
        pending[name] = tensor.contiguous()
        if sum(t.nbytes for t in pending.values()) >= SHARD_BYTES:
            flush()
    if pending:
        flush()
    index = json.dumps({"metadata": {}, "weight_map": places}, indent=2)
    (target / INDEX_NAME).write_text(index + "\n", encoding="utf-8")


def copy_companions(source: Directory, target: Path, without: Collection[str] = ()) -> None:
    """Copy what describes a checkpoint besides its config: tokenizer, templates, generation defaults, pooling."""
    for file in source.iterdir():
        is_companion = any(fnmatch(file.name, pattern) for pattern in SETTINGS)
        if is_companion and file.is_file() and file.name not in (INDEX_NAME, CONFIG_NAME, EXPORT_NAME, *without):
            (target / file.name).write_bytes(file.read_bytes())
        settings = source / f"{file.name}/config.json"
        if file.name[0].isdigit() and settings.is_file():  # a folder with the settings of sentence-transformers
            (target / file.name).mkdir(exist_ok=True)
            (target / file.name / "config.json").write_bytes(settings.read_bytes())
    tool_use = source / TOOL_USE_NAME
    if tool_use.is_file():
        (target / TOOL_USE_NAME).parent.mkdir(exist_ok=True)
        (target / TOOL_USE_NAME).write_bytes(tool_use.read_bytes())
