"""Counts of a network's choices, and the measures of a routing report. All of them are of what was computed.

Shapes: T tokens, L MoE layers, E experts, A labels of an axis (such as the languages).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.config import MoEConfig
from model.evaluation.routing.texts import LabelledText
from model.generate import whole_sequence
from model.layers.router import Routing
from model.network import CausalLM

AXES = ("task", "language", "kind")
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
SAMPLES = 200  # of each batch size

Counts = NDArray[np.float64]


@dataclass(slots=True)
class LayerChoices:
    """Of one layer: which experts each token used, and counts by label, [A, E] for each axis."""

    layer: int
    config: MoEConfig
    used_TE: NDArray[np.bool_]
    by_label: dict[str, Counts]

    @property
    def load_E(self) -> Counts:
        return self.used_TE.sum(0).astype(np.float64)

    @property
    def coactivation_EE(self) -> Counts:
        """How often expert j is used where i is: each row relative to the uses of i."""
        used_TE = self.used_TE.astype(np.float64)
        together_EE = used_TE.T @ used_TE
        np.fill_diagonal(together_EE, 0)
        shares: Counts = together_EE / np.maximum(self.load_E[:, None], 1)
        return shares

    def information(self, axis: str) -> float:
        """How many bits a choice of an expert tells of the label."""
        return mutual_information(self.by_label[axis])

    def shares(self, axis: str) -> Counts:
        """The experts' shares for each label: [A, E]."""
        counts_AE = self.by_label[axis]
        shares: Counts = counts_AE / np.maximum(counts_AE.sum(1, keepdims=True), 1)
        return shares


@dataclass(frozen=True, slots=True)
class RoutingStudy:
    """The choices of all layers for some texts."""

    labels: dict[str, list[str]]  # by axis, in the order of `LayerChoices.by_label`
    layers: list[LayerChoices]
    hidden_size: int
    num_texts: int
    distinct_experts: dict[int, list[float]] = field(default_factory=dict)  # by batch size, the mean of each layer

    @property
    def num_tokens(self) -> int:
        return len(self.layers[0].used_TE)

    def touched_bytes(self, batch_size: int) -> float:
        """Bytes of routed experts in bfloat16 that a decode step of so many sequences reads, on average."""
        weights = [3 * self.hidden_size * layer.config.expert_width for layer in self.layers]
        return sum(2 * size * n for size, n in zip(weights, self.distinct_experts[batch_size], strict=True))


@torch.inference_mode()
def study(network: CausalLM, texts: Iterable[LabelledText]) -> RoutingStudy:
    """Run the network on all texts. ValueError for a network without experts, and without texts."""
    moe_layers = dict(network.config.moe_layers())
    if not moe_layers:
        raise ValueError("this model has no experts")
    read = list(texts)
    if not read:
        raise ValueError("there are no texts")
    used: dict[int, list[NDArray[np.bool_]]] = {layer: [] for layer in moe_layers}
    for text in read:
        _, routings = network(whole_sequence(network, text.token_ids))
        for layer, parts in used.items():
            routing = routings[layer]
            assert routing is not None
            parts.append(used_experts(routing, moe_layers[layer].num_experts))
    labels = {axis: [label for text in read for label in _labels(text, axis)] for axis in AXES}
    names = {axis: sorted(set(found)) for axis, found in labels.items()}
    layers = []
    for layer, parts in used.items():
        used_TE = np.concatenate(parts)
        by_label = {axis: _by_label(used_TE, labels[axis], names[axis]) for axis in AXES}
        layers.append(LayerChoices(layer, moe_layers[layer], used_TE, by_label))
    distinct = {size: [distinct_experts(layer.used_TE, size) for layer in layers] for size in BATCH_SIZES}
    return RoutingStudy(names, layers, network.config.hidden_size, len(read), distinct)


def mutual_information(counts_AE: Counts) -> float:
    """Between label and expert, in bits, of a table of counts."""
    joint_AE = counts_AE / max(counts_AE.sum(), 1)
    apart_AE = joint_AE.sum(1, keepdims=True) * joint_AE.sum(0, keepdims=True)
    seen = joint_AE > 0
    return float((joint_AE[seen] * np.log2(joint_AE[seen] / apart_AE[seen])).sum())


def distinct_experts(used_TE: NDArray[np.bool_], batch_size: int) -> float:
    """How many experts a step uses on average whose tokens are drawn at random, as those of independent sequences."""
    rows = np.random.default_rng(0).integers(len(used_TE), size=(SAMPLES, batch_size))
    return float(used_TE[rows].any(1).sum(1).mean())


def used_experts(routing: Routing, num_experts: int) -> NDArray[np.bool_]:
    """Which experts each token used: [T, E]."""
    used_TE = torch.zeros(len(routing.experts_TK), num_experts)
    used_TE.scatter_add_(1, routing.experts_TK.cpu(), (routing.weights_TK > 0).float().cpu())
    found: NDArray[np.bool_] = (used_TE > 0).numpy()
    return found


def _labels(text: LabelledText, axis: str) -> Sequence[Any]:
    return text.kinds if axis == "kind" else [getattr(text, axis)] * len(text.token_ids)


def _by_label(used_TE: NDArray[np.bool_], labels: Sequence[str], names: Sequence[str]) -> Counts:
    numbers = {name: number for number, name in enumerate(names)}
    counts_AE = np.zeros((len(names), used_TE.shape[1]))
    np.add.at(counts_AE, [numbers[label] for label in labels], used_TE.astype(np.float64))
    return counts_AE
