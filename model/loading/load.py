"""Loads a checkpoint directory into a network that is ready to serve, one module at a time.

The tensors of a module are read, joined, converted, and packed or quantized; their plain form is freed before the next
module is read. The largest modules come first: their temporary copies then fit into the memory that the smaller modules
need later, so the peak stays close to the size of the finished network.
"""

import ctypes
import logging
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from model import kernels
from model.checkpoints.reader import check_experts
from model.checkpoints.rules import Rule
from model.checkpoints.safetensors_files import (
    CheckpointError,
    CheckpointReader,
    check_headers,
    choose_layout,
    named_tensors,
    open_checkpoint,
    read_config,
    read_parameter,
    stored_bytes,
)
from model.checkpoints.tensor_readers import FiniteCheckReader, Progress, ProgressReader, ReadOnceReader
from model.config import ModelConfig, with_experts_per_token
from model.families import Family, family_of
from model.files import Directory
from model.loading.freeze import freeze_codes, freeze_matrix, gather_weights, is_matrix
from model.loading.pooling import MODULES_NAME
from model.loading.stored_codes import read_codes, stored_format
from model.network import CausalLM, cast_matrices
from model.quantization import SCHEMES, Scheme, ours, plain_scheme, stored_scheme
from model.quantization.formats import dequantized, gguf_settings, nearest_scheme

HEAD = "lm_head.weight"
LAYER_COUNTS = ("num_hidden_layers", "num_nextn_predict_layers")  # of config.json; a layer has at least one tensor
RETURNED_AT_ONCE = 16 << 20  # bytes
MAX_UNSEEN_LAYERS = 10_000  # where no weights are at hand
TIED_COPIES = ("lm_head.",)  # some exporters store the head although it is tied to the embedding

logger = logging.getLogger(__name__)


def load_network(
    directory: Directory,
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
        ours.load_weights(model.network, _watched(reader, reader.names(), check, progress))
    else:
        reader, rules = open_layout(directory, model)
        reader = ReadOnceReader(_watched(reader, _sources(rules), check, progress), rules)
        if freeze and scheme is None:
            scheme = default_scheme(model.hf_config, model.network.dtype)
        _fill(model.network, reader, rules, scheme)
    if freeze:
        _gather(model.network)
    return model.network.requires_grad_(False).eval()


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """The content of config.json, the family, and the network on the device "meta", without memory for weights."""

    hf_config: Mapping[str, Any]
    family: Family
    network: CausalLM


def describe(directory: Directory, dtype: torch.dtype, experts_per_token: int | None = None) -> ModelDescription:
    """Read config.json. CheckpointError where it is missing, incomplete or of no known family.

    It is one too where the weights are too few for the layers and experts, before anything is made for each of them.
    Weights are only read if a head is stored that should be tied to the embedding: a different one is used.
    `experts_per_token` replaces the config's number; ValueError where the network cannot have it.
    """
    hf_config = read_config(directory)
    family = family_of(hf_config)
    reader = _opened(directory)
    _check_layers(hf_config, MAX_UNSEEN_LAYERS if reader is None else len(reader.names()))
    with _impossible_values():
        config = family.config_from_hf(hf_config)
    if reader is not None:
        _check_experts(config, directory)
        config = replace(config, tie_word_embeddings=_is_tied(directory, reader, config, family))
    if experts_per_token is not None:
        config = with_experts_per_token(config, experts_per_token)
    with _impossible_values(), torch.device("meta"):
        return ModelDescription(hf_config, family, cast_matrices(CausalLM(config), dtype))


@contextmanager
def _impossible_values() -> Iterator[None]:
    """CheckpointError for what values of config.json such as -1, 2**60 and "many" lead to."""
    try:
        yield
    except (ArithmeticError, AttributeError, RuntimeError, TypeError) as error:
        raise CheckpointError(f"config.json describes a network that cannot be built: {error}") from error


def _opened(directory: Directory) -> CheckpointReader | None:
    """None without weights, and for broken ones, which is reported when they are loaded."""
    try:
        return open_checkpoint(directory)
    except CheckpointError:
        return None


def _check_layers(hf_config: Mapping[str, Any], most: int) -> None:
    """CheckpointError for more layers than `most`. What is no number fails as a family reads it."""
    text = hf_config.get("text_config")
    for values in (hf_config, text if isinstance(text, Mapping) else {}):
        for key in LAYER_COUNTS:
            count = values.get(key)
            if isinstance(count, int) and count > most:
                raise CheckpointError(f"config.json has {key} {count}: at most {most} are possible with these weights")


def _check_experts(config: ModelConfig, directory: Directory) -> None:
    with _impossible_values():
        count = sum(moe.num_experts for _, moe in config.moe_layers())
        check_experts(count, stored_bytes(directory), str(directory))


def _is_tied(directory: Directory, reader: CheckpointReader, config: ModelConfig, family: Family) -> bool:
    """Whether the head is the embedding: by config.json, unless the weights show something else."""
    if config.tie_word_embeddings and _stores_another_head(reader, family.layouts(config)):
        return False
    return config.tie_word_embeddings or _has_no_head(directory, reader)


def _stores_another_head(reader: CheckpointReader, layouts: Sequence[list[Rule]]) -> bool:
    """Whether a checkpoint of tied embeddings has a head that is not a copy of the embedding. Logs a warning then."""
    embeddings = {rule.sources[0] for rules in layouts for rule in rules if rule.target == "embedding.weight"}
    found = embeddings.intersection(reader.names())
    if HEAD not in reader.names() or not found:
        return False
    embedding = found.pop()
    if reader.header(embedding).shape != reader.header(HEAD).shape:
        return False
    if _is_copy(reader.get(embedding), reader.get(HEAD)):
        return False
    logger.warning(
        "config.json ties the head to the embedding, but the checkpoint has %s, which differs from the embedding: "
        "the stored head is used, as transformers does",
        HEAD,
    )
    return True


def _is_copy(embedding: Tensor, head: Tensor) -> bool:
    """Whether both are the same, one of them perhaps rounded to another type."""
    return torch.equal(embedding, head.to(embedding.dtype)) or torch.equal(embedding.to(head.dtype), head)


def _has_no_head(directory: Directory, reader: CheckpointReader) -> bool:
    """Whether this is an embedding model that was stored without a head. It gets the embedding as one, unused."""
    return (directory / MODULES_NAME).is_file() and HEAD not in reader.names()


def open_layout(directory: Directory, model: ModelDescription) -> tuple[CheckpointReader, list[Rule]]:
    """A reader of the checkpoint, which dequantizes if necessary, and the rules of its layout. Checks the headers."""
    stored = open_checkpoint(directory)  # before anything is listed for each expert
    layouts = model.family.layouts(model.network.config)
    wanted = {name for rules in layouts for name in _sources(rules)}
    reader = dequantized(stored, model.hf_config, wanted)
    rules = choose_layout(reader, layouts)
    copies = TIED_COPIES if model.network.config.tie_word_embeddings else ()
    check_headers(reader, rules, named_tensors(model.network), model.family.ignored(model.hf_config) + copies)
    return reader, rules


def default_dtype() -> torch.dtype:
    """bfloat16 where the matrix products are compiled, which read half the bytes then; otherwise float32."""
    return torch.bfloat16 if kernels.compiled() else torch.float32


def default_scheme(hf_config: Mapping[str, Any], dtype: torch.dtype) -> Scheme:
    """The scheme with about as many bits per weight as the checkpoint has."""
    gguf = gguf_settings(hf_config)
    if gguf is not None:
        return stored_scheme(gguf["type"], gguf["bits_per_weight"], gguf["head_bits_per_weight"], dtype)
    stored_as = ours.scheme_name(hf_config) or nearest_scheme(hf_config)
    return plain_scheme(dtype) if stored_as is None else SCHEMES[stored_as]


def _check_ours(kept: str, scheme: Scheme | None, freeze: bool) -> None:
    if not freeze or (scheme is not None and scheme.name != kept):
        wanted = scheme.name if scheme else "plain matrices"
        raise ValueError(
            f"`routelm quantize` made this checkpoint: it is served as {kept}, on a CPU, and not as {wanted}; "
            "for that, load the checkpoint it was made from"
        )


def _watched(
    reader: CheckpointReader, wanted: Collection[str], check: bool, progress: Progress | None
) -> CheckpointReader:
    reader = FiniteCheckReader(reader) if check else reader
    return ProgressReader(reader, wanted, progress) if progress else reader


def _sources(rules: Collection[Rule]) -> set[str]:
    return {name for rule in rules for name in rule.sources}


def _fill(network: CausalLM, reader: CheckpointReader, rules: list[Rule], scheme: Scheme | None) -> None:
    """Load the weights of every module, and pack it if there is a scheme."""
    quantized_again: list[str] = []
    for name, module_rules in _largest_first(network, rules):
        weight = next((rule for rule in module_rules if scheme and is_matrix(network, rule.target)), None)
        if scheme is None or weight is None:
            _fill_tensors(network, reader, module_rules)
        elif (codes := read_codes(network, reader, weight, scheme)) is not None:
            _fill_tensors(network, reader, [rule for rule in module_rules if rule is not weight])
            freeze_codes(network, name, codes)
        else:
            _fill_tensors(network, reader, module_rules)
            stored = stored_format(reader, weight)
            freeze_matrix(network, name, scheme.nearest(stored))
            if stored is not None and scheme.is_quantized:
                quantized_again.append(name)
        return_freed_memory()
    if scheme is None and network.config.tie_word_embeddings:
        network.tie_head()
    if quantized_again:
        count, example = len(quantized_again), quantized_again[0]
        logger.info("%d stored matrices are quantized a second time, for another format; one is %s", count, example)
    unfilled = [name for name, tensor in network.state_dict().items() if tensor.is_meta]
    assert not unfilled, f"no rule of this family makes {unfilled[0]}"


def _gather(network: CausalLM) -> None:
    """Gather the small weights, and return what that frees a piece at a time."""
    freed = 0
    for nbytes in gather_weights(network):
        freed += nbytes
        if freed >= RETURNED_AT_ONCE:
            return_freed_memory()
            freed = 0
    return_freed_memory()


def return_freed_memory() -> None:
    """Return memory of temporary tensors to the system. glibc would keep 64 MiB of it, and fragmented parts."""
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)


def _largest_first(network: nn.Module, rules: list[Rule]) -> Iterator[tuple[str, list[Rule]]]:
    """The rules by module, the modules with the most bytes first; equals in the order of the family."""

    def module_of(rule: Rule) -> str:
        return rule.target.rpartition(".")[0]

    def parameter_bytes(module_rules: list[Rule]) -> int:
        return sum(tensors[rule.target].nbytes for rule in module_rules)

    tensors = named_tensors(network)
    modules: dict[str, list[Rule]] = {}
    for rule in rules:
        modules.setdefault(module_of(rule), []).append(rule)
    yield from sorted(modules.items(), key=lambda item: parameter_bytes(item[1]), reverse=True)


def _fill_tensors(network: nn.Module, reader: CheckpointReader, rules: Iterable[Rule]) -> None:
    for rule in rules:
        owner, _, name = rule.target.rpartition(".")
        module = network.get_submodule(owner)
        tensor = read_parameter(reader, rule, getattr(module, name).dtype)
        is_parameter = isinstance(getattr(module, name), nn.Parameter)
        setattr(module, name, nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor)
