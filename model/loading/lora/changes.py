"""From the tensors of an adapter to the low-rank changes of our matrices, by the rules of the base model's family.

Our matrices are made of several of the checkpoint's: queries, keys and values, for example, are one. A rule moves rows
only, and so can be applied to B: the A of the sources stand one below the other, each B has columns of its own, and the
rule joins the B as it joins the weights. The sum over the columns then is the change of each source.

Shapes: R rank, I inputs, O outputs, E experts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoints.reader import CheckpointError, CheckpointReader
from model.checkpoints.rules import Chain, Concat, Interleaved, Merge, PerHead, RotaryPairs, Rule, Same, Stack
from model.checkpoints.safetensors_files import WEIGHT_DTYPES, SafetensorsReader
from model.layers.feed_forward import Experts
from model.layers.linear import Linear
from model.layers.lora.linear import LowRank
from model.loading.load import ModelDescription
from model.loading.lora.adapter_config import AdapterConfig, read_adapter_config
from model.network import CausalLM

WEIGHTS_NAME = "adapter_model.safetensors"
PREFIX = "base_model.model."
A_NAME, B_NAME = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a matrix of the checkpoint goes: source `index` of a rule, with its shape and our type."""

    rule: Rule
    index: int
    shape: tuple[int, ...]
    dtype: torch.dtype


class AdapterReader:
    """Reads adapters of one model."""

    def __init__(self, model: ModelDescription) -> None:
        self._model, self._places = model, _places(model)

    def read(self, directory: Path) -> dict[str, LowRank]:
        """The changes of our matrices, by the name of the module such as "blocks.0.mixer.in_proj".

        Raises CheckpointError for an adapter that does not fit the model, naming what.
        """
        changes: dict[str, LowRank] = {}
        for rule, pairs in self._pairs(directory).items():
            target = rule.target.removesuffix(".weight")
            if target in changes:
                raise CheckpointError(f"the adapter changes {target} under two names")
            changes[target] = _joined(rule, pairs, _shapes(rule, self._model))
        return changes

    def _pairs(self, directory: Path) -> dict[Rule, dict[int, LowRank]]:
        """The A and B of the changed sources, by rule and index of the source."""
        config = read_adapter_config(directory)
        path = directory / WEIGHTS_NAME
        if not path.is_file():
            raise CheckpointError(
                f"{directory} has no {WEIGHTS_NAME}: other formats are not loaded, because they run code"
            )
        reader = SafetensorsReader([path])
        pairs: dict[Rule, dict[int, LowRank]] = {}
        for module in _modules(reader.names()):
            place = _place_of(module, self._places, config)
            if not _can_change(place, self._model.network):
                raise CheckpointError(f"the adapter changes {module}: adapters of this matrix are not served")
            pairs.setdefault(place.rule, {})[place.index] = _pair(reader, module, place, config)
        if not pairs:
            raise CheckpointError(f"{WEIGHTS_NAME} has no tensors {PREFIX}*{A_NAME}")
        return pairs


def _places(model: ModelDescription) -> dict[str, _Place]:
    """The matrices of the family's checkpoints by module name, in all layouts; of equal names the first counts."""
    places: dict[str, _Place] = {}
    for rule in (rule for rules in model.family.layouts(model.network.config) for rule in rules):
        if rule.target.endswith(".weight"):
            dtype = model.network.get_parameter(rule.target).dtype
            for index, (source, shape) in enumerate(zip(rule.sources, _shapes(rule, model), strict=True)):
                places.setdefault(source.removesuffix(".weight"), _Place(rule, index, shape, dtype))
    return places


def _shapes(rule: Rule, model: ModelDescription) -> list[tuple[int, ...]]:
    """The shapes of a rule's sources."""
    shape = model.network.get_parameter(rule.target).shape
    return [tuple(part.shape) for part in rule.merge.split(torch.empty(shape, device="meta"))]


def _modules(names: Iterable[str]) -> list[str]:
    """The names of the modules that have an A or a B, without PEFT's prefix. CheckpointError for other tensors."""
    modules = set()
    for name in names:
        if not name.startswith(PREFIX) or not name.endswith((A_NAME, B_NAME)):
            raise CheckpointError(
                f"{WEIGHTS_NAME} has the tensor {name}: only {PREFIX}*{A_NAME} and {B_NAME} are served, "
                "not changed embeddings, biases, magnitudes or whole modules"
            )
        modules.add(name.removeprefix(PREFIX).removesuffix(A_NAME).removesuffix(B_NAME))
    return sorted(modules)


def _place_of(module: str, places: Mapping[str, _Place], config: AdapterConfig) -> _Place:
    place = places.get(module) or places.get(f"model.{module}")
    if place is None:
        raise CheckpointError(
            f"the adapter changes {module}, which this model does not have; it was made for {config.base_model}"
        )
    return place


def _can_change(place: _Place, network: CausalLM) -> bool:
    """Whether layers with adapters can compute the change: of linear layers but the head, and of experts."""
    name = place.rule.target.removesuffix(".weight")
    is_expert = isinstance(network.get_submodule(name.rpartition(".")[0]), Experts)
    is_linear = isinstance(network.get_submodule(name), Linear) and name != "head"
    return (is_expert or is_linear) and _moves_rows(place.rule.merge) and len(place.shape) == 2


def _moves_rows(merge: Merge) -> bool:
    """Whether a merge only moves rows of matrices, whatever their width."""
    if isinstance(merge, Chain):
        return all(map(_moves_rows, merge.steps))
    if isinstance(merge, Same):
        return merge.ours is None and merge.shape is None
    return isinstance(merge, Concat | PerHead | RotaryPairs | Stack) or merge == Interleaved(-2)


def _pair(reader: CheckpointReader, module: str, place: _Place, config: AdapterConfig) -> LowRank:
    """The A and B of a module, B scaled."""
    rank, (outputs, inputs) = config.rank_of(module), place.shape
    A = _read(reader, f"{PREFIX}{module}{A_NAME}", (rank, inputs), config)
    B = _read(reader, f"{PREFIX}{module}{B_NAME}", (outputs, rank), config)
    return LowRank(A.to(place.dtype), (B.float() * config.scaling_of(module)).to(place.dtype))


def _read(reader: CheckpointReader, name: str, shape: tuple[int, ...], config: AdapterConfig) -> Tensor:
    if name not in reader.names():
        raise CheckpointError(f"{WEIGHTS_NAME} lacks the tensor {name}")
    header = reader.header(name)
    if header.shape != shape:
        raise CheckpointError(
            f"{name} has shape {list(header.shape)} where this model and adapter_config.json ask for {list(shape)}; "
            f"the adapter was made for {config.base_model}"
        )
    if header.dtype not in WEIGHT_DTYPES:
        raise CheckpointError(f"{name} has type {header.type_name}, which is not served")
    tensor = reader.get(name)
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(f"{name} has values that are not finite numbers")
    return tensor


def _joined(rule: Rule, pairs: Mapping[int, LowRank], shapes: list[tuple[int, ...]]) -> LowRank:
    """The change of the whole parameter of a rule, from those of some of its sources."""
    merge = rule.merge
    per_expert = len(merge.sizes) if isinstance(merge, Stack) else len(shapes)
    ranks = [0] * per_expert
    for index, pair in pairs.items():
        ranks[index % per_expert] = max(ranks[index % per_expert], len(pair.A))
    starts = [sum(ranks[:kind]) for kind in range(per_expert)]
    first = next(iter(pairs.values())).A
    A = first.new_zeros(len(shapes) // per_expert, sum(ranks), first.shape[1])
    columns = []
    for index, (outputs, _) in enumerate(shapes):
        columns.append(B := first.new_zeros(outputs, sum(ranks)))
        if index in pairs:
            pair, expert, start = pairs[index], index // per_expert, starts[index % per_expert]
            A[expert, start : start + len(pair.A)] = pair.A
            B[:, start : start + len(pair.A)] = pair.B
    return LowRank(A if isinstance(merge, Stack) else A[0], merge.join(columns))
