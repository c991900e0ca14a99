"""From a checkpoint directory to a network that is ready to serve, a module at a time.

A module's tensors are read, joined, converted, packed or quantized, and their plain form is freed before the next is
read. The largest modules come first: what is needed beside them on the way then fits in the room that the smaller ones
take in the end, and the peak stays near the size of the finished network.
"""

import ctypes
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from model import kernels
from model.checkpoints.rules import Rule
from model.checkpoints.safetensors_files import (
    CheckpointReader,
    check_headers,
    choose_layout,
    named_tensors,
    open_checkpoint,
    read_config,
    read_parameter,
)
from model.checkpoints.tensor_readers import FiniteCheckReader, Progress, ProgressReader, ReadOnceReader
from model.config import with_experts_per_token
from model.families import Family, family_of
from model.loading.freeze import freeze_module, freeze_tied_head
from model.network import CausalLM, cast_matrices
from model.quantization import SCHEMES, Scheme, ours, plain_scheme
from model.quantization.formats import decoded, nearest_scheme

TIED_COPIES = ("lm_head.",)  # some exporters store a tied head although it is the embedding


def load_network(
    directory: Path,
    dtype: torch.dtype | None = None,
    *,
    scheme: Scheme | None = None,
    freeze: bool = True,
    check: bool = False,
    experts_per_token: int | None = None,
    progress: Progress | None = None,
) -> CausalLM:
    """Load a checkpoint of any family; raises CheckpointError naming what is wrong with it, before reading if possible.

    `dtype` is that of matrices and hidden states, see `default_dtype`. `freeze` packs the matrices for fast and
    reproducible products on a CPU, quantized by `scheme`; the default scheme keeps about as many bits per weight as the
    checkpoint has. `check` looks for NaN and infinite weights. `experts_per_token` replaces the number in the config.
    `progress` is called after every tensor.
    """
    if scheme is not None and not freeze:
        raise ValueError(f"{scheme.name} freezes the weights as a CPU multiplies them: it needs freeze=True")
    model = describe(directory, dtype or default_dtype(), experts_per_token)
    kept = ours.scheme_name(model.hf_config)
    if kept is not None:
        _check_ours(kept, scheme, freeze)
        reader = open_checkpoint(directory)
        ours.fill(model.network, _watched(reader, reader.names(), check, progress))
    else:
        reader, rules = open_layout(directory, model)
        reader = ReadOnceReader(_watched(reader, _sources(rules), check, progress), rules)
        if freeze and scheme is None:
            scheme = default_scheme(model.hf_config, model.network.dtype)
        _fill(model.network, reader, rules, scheme)
    return model.network.requires_grad_(False).eval()


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What config.json says: whose checkpoint it is, and a network of its shapes without memory for weights."""

    hf_config: Mapping[str, Any]
    family: Family
    network: CausalLM


def describe(directory: Path, dtype: torch.dtype, experts_per_token: int | None = None) -> ModelDescription:
    """Read config.json and nothing else. CheckpointError where it is missing, incomplete or of no known family.

    `experts_per_token` replaces the config's number; ValueError where the network cannot have it.
    """
    hf_config = read_config(directory)
    family = family_of(hf_config)
    config = family.config_from_hf(hf_config)
    if experts_per_token is not None:
        config = with_experts_per_token(config, experts_per_token)
    with torch.device("meta"):
        return ModelDescription(hf_config, family, cast_matrices(CausalLM(config), dtype))


def open_layout(directory: Path, model: ModelDescription) -> tuple[CheckpointReader, list[Rule]]:
    """The checkpoint's tensors, decoded where they are quantized, and the rules by which they are stored; checked."""
    layouts = model.family.layouts(model.network.config)
    wanted = {name for rules in layouts for name in _sources(rules)}
    reader = decoded(open_checkpoint(directory), model.hf_config, wanted)
    rules = choose_layout(reader, layouts)
    copies = TIED_COPIES if model.network.config.tie_word_embeddings else ()
    check_headers(reader, rules, named_tensors(model.network), model.family.ignored + copies)
    return reader, rules


def default_dtype() -> torch.dtype:
    """bfloat16 where the matrix products are compiled, which read half the bytes then; otherwise float32."""
    return torch.bfloat16 if kernels.compiled() else torch.float32


def default_scheme(hf_config: Mapping[str, Any], dtype: torch.dtype) -> Scheme:
    """About as many bits as are stored."""
    stored_as = ours.scheme_name(hf_config) or nearest_scheme(hf_config)
    return plain_scheme(dtype) if stored_as is None else SCHEMES[stored_as]


def _check_ours(kept: str, scheme: Scheme | None, freeze: bool) -> None:
    if not freeze or (scheme is not None and scheme.name != kept):
        wanted = scheme.name if scheme else "plain matrices"
        raise ValueError(
            f"`routelm quantize` made this checkpoint: it is served as {kept}, on a CPU, and not as {wanted}; "
            "for that, load what it was made of"
        )


def _watched(
    reader: CheckpointReader, wanted: Collection[str], check: bool, progress: Progress | None
) -> CheckpointReader:
    reader = FiniteCheckReader(reader) if check else reader
    return ProgressReader(reader, wanted, progress) if progress else reader


def _sources(rules: Collection[Rule]) -> set[str]:
    return {name for rule in rules for name in rule.sources}


def _fill(network: CausalLM, reader: CheckpointReader, rules: list[Rule], scheme: Scheme | None) -> None:
    """Give every module its weights and, where there is a scheme, its packed form."""
    for name, module_rules in _largest_first(network, rules):
        for rule in module_rules:
            _fill_tensor(network, reader, rule)
        freeze_module(network, name, scheme)
        if name == "embedding" and network.config.tie_word_embeddings:
            freeze_tied_head(network, scheme)
        _return_freed_memory()
    unfilled = [name for name, tensor in network.state_dict().items() if tensor.is_meta]
    assert not unfilled, f"no rule of this family makes {unfilled[0]}"


def _return_freed_memory() -> None:
    """Have the system take back what tensors on the way took: glibc would keep 64 MiB of it and what lies scattered."""
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)


def _largest_first(network: nn.Module, rules: list[Rule]) -> Iterator[tuple[str, list[Rule]]]:
    """The rules of each module together, modules in the order of their bytes; equals as the family names them."""

    def module_of(rule: Rule) -> str:
        return rule.target.rpartition(".")[0]

    def parameter_bytes(module_rules: list[Rule]) -> int:
        return sum(tensors[rule.target].nbytes for rule in module_rules)

    tensors = named_tensors(network)
    modules: dict[str, list[Rule]] = {}
    for rule in rules:
        modules.setdefault(module_of(rule), []).append(rule)
    yield from sorted(modules.items(), key=lambda item: parameter_bytes(item[1]), reverse=True)


def _fill_tensor(network: nn.Module, reader: CheckpointReader, rule: Rule) -> None:
    owner, _, name = rule.target.rpartition(".")
    module = network.get_submodule(owner)
    tensor = read_parameter(reader, rule, getattr(module, name).dtype)
    is_parameter = isinstance(getattr(module, name), nn.Parameter)
    setattr(module, name, nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor)
