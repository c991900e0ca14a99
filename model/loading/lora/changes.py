"""From the tensors of an adapter to the low-rank changes of our matrices, by the rules of the base model's family.

Our matrices are made of several of the checkpoint's: queries, keys and values, for example, are one. A rule moves rows
only, and so can be applied to B: the A of the sources stand one below the other, each B has columns of its own, and the
rule joins the B as it joins the weights. The sum over the columns then is the change of each source.

Shapes: R rank, I inputs, O outputs, E experts.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoints.reader import CheckpointError, CheckpointReader
from model.checkpoints.rules import Interleaved, Rule, Stack
from model.checkpoints.safetensors_files import WEIGHT_DTYPES, SafetensorsReader
from model.layers.lora.linear import LowRank
from model.loading.load import ModelDescription
from model.loading.lora.adapter_config import AdapterConfig, read_adapter_config
from model.loading.lora.modules import AdaptedModules, TargetMatrix, source_shapes, steps_of

WEIGHTS_NAME = "adapter_model.safetensors"
PREFIX = "base_model.model."
A_NAME, B_NAME = ".lora_A.weight", ".lora_B.weight"

Pairs = dict[int | None, LowRank]  # of the changed sources of a rule, by index, or of all of them under None


class AdapterReader:
    """Reads adapters of one model."""

    def __init__(self, model: ModelDescription) -> None:
        self._network, self._modules = model.network, AdaptedModules(model)

    def read(self, directory: Path) -> dict[str, LowRank]:
        """The changes of our matrices, by the name of the module such as "blocks.0.mixer.in_proj".

        Raises CheckpointError for an adapter that does not fit the model, naming what.
        """
        changes: dict[str, LowRank] = {}
        for rule, pairs in self._pairs(directory).items():
            target = rule.target.removesuffix(".weight")
            if target in changes or (None in pairs and len(pairs) > 1):
                raise CheckpointError(f"the adapter changes {target} under two names")
            changes[target] = (
                _of_experts(rule, pairs[None])
                if None in pairs
                else _joined(rule, pairs, source_shapes(rule, self._network))
            )
        return changes

    def _pairs(self, directory: Path) -> dict[Rule, Pairs]:
        """The A and B of what is changed."""
        config = read_adapter_config(directory)
        path = directory / WEIGHTS_NAME
        if not path.is_file():
            raise CheckpointError(
                f"{directory} has no {WEIGHTS_NAME}: other formats are not loaded, because they run code"
            )
        reader = SafetensorsReader([path])
        pairs: dict[Rule, Pairs] = {}
        for module in _modules(reader.names()):
            place, name = self._modules.find(module, config)
            pairs.setdefault(place.rule, {})[place.index] = _PairReader(reader, module, name, config).read(place)
        if not pairs:
            raise CheckpointError(f"{WEIGHTS_NAME} has no tensors {PREFIX}*{A_NAME}")
        return pairs


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


class _PairReader:
    """Reads the A and B of a module. `name` is the one that decides rank and scaling."""

    def __init__(self, reader: CheckpointReader, module: str, name: str, config: AdapterConfig) -> None:
        self._reader, self._module, self._config = reader, module, config
        self._rank, self._scaling = config.rank_of(name), config.scaling_of(name)

    def read(self, place: TargetMatrix) -> LowRank:
        """Of one matrix, or of all experts. B is scaled."""
        *experts, outputs, inputs = place.shape
        if not experts:
            A, B = self._tensor(A_NAME, self._rank, inputs), self._tensor(B_NAME, outputs, self._rank)
        else:  # rows of A are sorted by expert, columns of B by their place in the expert
            width = experts[0] * self._rank
            A = self._tensor(A_NAME, width, inputs).unflatten(0, (experts[0], self._rank))
            B = self._tensor(B_NAME, outputs, width).unflatten(1, (self._rank, experts[0])).permute(2, 0, 1)
        return LowRank(A.to(place.dtype), (B.float() * self._scaling).to(place.dtype))

    def _tensor(self, suffix: str, *shape: int) -> Tensor:
        name = f"{PREFIX}{self._module}{suffix}"
        if name not in self._reader.names():
            raise CheckpointError(f"{WEIGHTS_NAME} lacks the tensor {name}")
        header = self._reader.header(name)
        if header.shape != shape:
            raise CheckpointError(
                f"{name} has shape {list(header.shape)} where this model and adapter_config.json ask for "
                f"{list(shape)}; the adapter was made for {self._config.base_model}"
            )
        if header.dtype not in WEIGHT_DTYPES:
            raise CheckpointError(f"{name} has type {header.type_name}, which is not served")
        tensor = self._reader.get(name)
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{name} has values that are not finite numbers")
        return tensor


def _of_experts(rule: Rule, change: LowRank) -> LowRank:
    """The change of all experts as transformers stacks them: like ours, gate rows first, or interleaved rows."""
    B = change.B
    for step in steps_of(rule.merge):
        if isinstance(step, Interleaved):
            B = step.join([B])
    return LowRank(change.A, B)


def _joined(rule: Rule, pairs: Mapping[int | None, LowRank], shapes: list[tuple[int, ...]]) -> LowRank:
    """The change of the whole parameter of a rule, from those of some of its sources."""
    merge = rule.merge
    per_expert = len(merge.sizes) if isinstance(merge, Stack) else len(shapes)
    ranks = [0] * per_expert
    for index, pair in enumerate(map(pairs.get, range(len(shapes)))):
        ranks[index % per_expert] = max(ranks[index % per_expert], 0 if pair is None else len(pair.A))
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
