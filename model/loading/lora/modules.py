"""Which matrix of a network each module of an adapter changes.

PEFT names modules as transformers does. It adapts the experts of a layer in one of two ways: as linear layers of their
own, or, where they are stacked, as parameters of one module (`target_parameters`). The adapters of several parameters
of a module are nested: each is named like the module, with `.base_layer` for every adapter around it, and the first
parameter is the innermost.

Shapes: I inputs, O outputs, E experts.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from model.checkpoints.reader import CheckpointError
from model.checkpoints.rules import (
    Chain,
    Concat,
    Interleaved,
    Merge,
    PerHead,
    RotaryPairs,
    Rule,
    Same,
    Stack,
    Transpose,
)
from model.layers.feed_forward import Experts, MoE
from model.layers.linear import Linear
from model.loading.load import ModelDescription
from model.loading.lora.adapter_config import AdapterConfig
from model.network import CausalLM

# What transformers calls otherwise than checkpoints do
_RENAMED = {
    ".block_sparse_moe.": ".mlp.",  # of mixtral, minimax_m2, phimoe and kimi_linear
    ".block_sparse_moe.gate": ".mlp.router",  # of phimoe
    ".router.layer": ".router",  # of granitemoe
    ".self_attn.f_": ".self_attn.forget_gate.f_",  # of kimi_linear
}
_STACKED = re.compile(r"layers\.(\d+)\.(?:\w+\.)*experts((?:\.base_layer)*)")
_LAYER = re.compile(r"layers\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class TargetMatrix:
    """Where a matrix of the checkpoint goes: source `index` of a rule, with its shape and our type.

    `index` is None for all matrices of a rule at once, with the shape [E, O, I].
    """

    rule: Rule
    index: int | None
    shape: tuple[int, ...]
    dtype: torch.dtype


class AdaptedModules:
    """The places of the matrices of a model, by the names of modules."""

    def __init__(self, model: ModelDescription) -> None:
        self._network = model.network
        self._places: dict[str, TargetMatrix] = {}
        self._stacked: dict[tuple[str, str], TargetMatrix] = {}  # by number of the layer and name of the parameter
        for rule in (rule for rules in model.family.layouts(model.network.config) for rule in rules):
            if rule.target.endswith(".weight"):
                self._add(rule)
        for name, place in list(self._places.items()):
            for theirs, of_transformers in _RENAMED.items():
                self._places.setdefault(name.replace(theirs, of_transformers), place)

    def _add(self, rule: Rule) -> None:
        """Of equal names in several layouts, the first counts."""
        parameter, name = self._network.get_parameter(rule.target), rule.target.removesuffix(".weight")
        for index, (source, shape) in enumerate(zip(rule.sources, source_shapes(rule, self._network), strict=True)):
            self._places.setdefault(
                _of_layer(source.removesuffix(".weight")), TargetMatrix(rule, index, shape, parameter.dtype)
            )
        experts, layer = self._network.get_submodule(name.rpartition(".")[0]), _LAYER.search(rule.sources[0])
        if isinstance(experts, Experts) and layer is not None:
            place = TargetMatrix(rule, None, tuple(parameter.shape), parameter.dtype)
            self._stacked.setdefault((layer[1], _stacked_name(self._network, name)), place)

    def find(self, module: str, config: AdapterConfig) -> tuple[TargetMatrix, str]:
        """The place of the matrix that an adapter's module changes, and the name for its rank and scaling.

        CheckpointError if the model has no such matrix, or if its adapters are not served.
        """
        place, name = self._find(module, config)
        if place is None:
            raise CheckpointError(
                f"the adapter changes {name}, which this model does not have; it was made for {config.base_model}"
            )
        if not _can_change(place, self._network):
            raise CheckpointError(f"the adapter changes {name}: adapters of this matrix are not served")
        return place, name

    def _find(self, module: str, config: AdapterConfig) -> tuple[TargetMatrix | None, str]:
        stacked = _STACKED.fullmatch(_of_layer(module))
        if stacked is None:
            parameter = f"{module}.weight"
            name = parameter if config.targets(parameter) else module
            return self._places.get(_of_layer(module)), name
        layer, nested = stacked[1], stacked[2].count(".")
        names = [name for number, name in self._stacked if number == layer]
        experts = module.replace(".base_layer", "")
        chosen = [name for name in names if config.targets(f"{experts}.{name}")]
        if not names or nested >= len(chosen):
            return None, module
        name = chosen[-1 - nested]
        return self._stacked[layer, name], f"{experts}.{name}"


def source_shapes(rule: Rule, network: CausalLM) -> list[tuple[int, ...]]:
    """The shapes of a rule's sources."""
    shape = network.get_parameter(rule.target).shape
    return [tuple(part.shape) for part in rule.merge.split(torch.empty(shape, device="meta"))]


def steps_of(merge: Merge) -> Iterator[Merge]:
    """The merges of which one is made, in order."""
    if isinstance(merge, Chain):
        for step in merge.steps:
            yield from steps_of(step)
    else:
        yield merge


def _of_layer(name: str) -> str:
    """A name without what stands before the layers, which differs: "layers.0.self_attn.q_proj"."""
    for prefix in ("model.language_model.", "model.", "backbone."):
        if name.startswith(f"{prefix}layers."):
            return name.removeprefix(prefix)
    return name


def _stacked_name(network: CausalLM, matrix: str) -> str:
    """What transformers calls one of our matrices of all experts of a layer."""
    moe = network.get_submodule(matrix.rpartition(".experts.")[0])
    assert isinstance(moe, MoE)
    up = "gate_up_proj" if moe.config.activation.inputs == 2 else "up_proj"
    return up if matrix.endswith(".gate_up") else "down_proj"


def _can_change(place: TargetMatrix, network: CausalLM) -> bool:
    """Whether layers with adapters can compute the change: of linear layers but the head, and of experts."""
    name = place.rule.target.removesuffix(".weight")
    is_expert = isinstance(network.get_submodule(name.rpartition(".")[0]), Experts)
    is_linear = isinstance(network.get_submodule(name), Linear) and name != "head"
    steps = list(steps_of(place.rule.merge))
    if place.index is None:
        return is_expert and all(_moves_rows(step) or isinstance(step, Transpose) for step in steps)
    return (is_expert or is_linear) and all(map(_moves_rows, steps)) and len(place.shape) == 2


def _moves_rows(merge: Merge) -> bool:
    """Whether a merge only moves rows of matrices, whatever their width."""
    if isinstance(merge, Same):
        return merge.ours is None and merge.shape is None
    return isinstance(merge, Concat | PerHead | RotaryPairs | Stack) or merge == Interleaved(-2)
