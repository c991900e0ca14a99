"""Puts LoRA adapters into a loaded network: each matrix that one of them changes gets a layer with their changes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from model.checkpoints.reader import CheckpointError
from model.layers.feed_forward import Experts, GatedMLP, MoE
from model.layers.frozen_linear import FrozenLinear
from model.layers.lora.feed_forward import LoRAGatedMLP, LoRAMoE, MLPAdapters
from model.layers.lora.linear import ActiveAdapters, LoRALinear, LoRAWeights, LowRank
from model.loading.load import ModelDescription
from model.loading.lora.changes import AdapterReader
from model.network import CausalLM

MAX_ADAPTERS = 64

Changes = Mapping[str, LowRank]  # of one adapter, by module name


def attach_adapters(network: CausalLM, model: ModelDescription, directories: Mapping[str, Path]) -> int:
    """Load the adapters, by name, into a frozen network whose description is `model`. Returns the bytes they take.

    Raises CheckpointError with the adapter's name for one that does not fit the network.
    """
    if len(directories) > MAX_ADAPTERS:
        raise CheckpointError(f"{len(directories)} LoRA adapters are given: at most {MAX_ADAPTERS} are served")
    reader = AdapterReader(model)
    adapters = [_read(name, directory, reader) for name, directory in directories.items()]
    attacher = _Attacher(network, model.network, adapters, ActiveAdapters(tuple(directories)))
    changed = {_layer_of(network, name) for changes in adapters for name in changes}
    for name in sorted(changed, reverse=True):  # inner layers before those that contain them
        attacher.attach(name)
    network.adapters = attacher.active
    return attacher.nbytes


def _read(name: str, directory: Path, reader: AdapterReader) -> Changes:
    try:
        return reader.read(directory)
    except ValueError as error:
        raise CheckpointError(f"LoRA adapter {name}: {error}") from error


def _layer_of(network: CausalLM, name: str) -> str:
    """The layer to replace if a matrix is changed: a matrix of a feed-forward is computed with the whole of it."""
    owner = name.rpartition(".")[0]
    above = owner.rpartition(".")[0]
    if isinstance(network.get_submodule(owner), Experts | GatedMLP):
        return above if isinstance(network.get_submodule(above), MoE) else owner
    return name


class _Attacher:
    """Replaces layers of a network. `nbytes` counts the memory of the changes."""

    def __init__(self, network: CausalLM, plain: CausalLM, adapters: Sequence[Changes], active: ActiveAdapters) -> None:
        """`plain`: the network before it was frozen, for shapes and types."""
        self._network, self._plain, self._adapters, self.active = network, plain, adapters, active
        self.nbytes = 0

    def attach(self, name: str) -> None:
        """Replace the layer `name`."""
        layer, matrices = self._network.get_submodule(name), _matrices(self._network.get_submodule(name), name)
        chosen = tuple(i for i, changes in enumerate(self._adapters) if not changes.keys().isdisjoint(matrices))
        weights = {matrix: self._weights(matrix, chosen) for matrix in matrices}
        if isinstance(layer, MoE):
            experts, shared = (
                MLPAdapters(*(weights.get(f"{name}.{part}.{matrix}") for matrix in ("gate_up", "down")))
                for part in ("experts", "shared")
            )
            changed: nn.Module = LoRAMoE(layer, chosen, experts, shared, self.active)
        elif isinstance(layer, GatedMLP):
            changed = LoRAGatedMLP(layer, chosen, MLPAdapters(*weights.values()), self.active)
        else:
            change = weights[name]
            assert isinstance(layer, FrozenLinear), "only frozen networks have adapters"
            assert change is not None
            changed = LoRALinear(layer, chosen, change, self.active)
        self._network.set_submodule(name, changed)

    def _weights(self, name: str, chosen: Sequence[int]) -> LoRAWeights | None:
        """The changes of a matrix by the chosen adapters, nothing for some of them. None: none changes it."""
        if not any(name in self._adapters[index] for index in chosen):
            return None
        weight = self._plain.get_parameter(f"{name}.weight")
        nothing = _no_change(weight)
        weights = LoRAWeights([self._adapters[index].get(name, nothing) for index in chosen], weight.dtype)
        self.nbytes += weights.nbytes
        return weights


def _matrices(layer: nn.Module, name: str) -> list[str]:
    """The names of the matrices that are computed with a layer."""
    if isinstance(layer, MoE):
        return [f"{name}.{part}.{matrix}" for part in ("experts", "shared") for matrix in ("gate_up", "down")]
    return [f"{name}.gate_up", f"{name}.down"] if isinstance(layer, GatedMLP) else [name]


def _no_change(weight: Tensor) -> LowRank:
    *experts, outputs, inputs = weight.shape
    return LowRank(torch.zeros(*experts, 1, inputs), torch.zeros(*experts, outputs, 1))
