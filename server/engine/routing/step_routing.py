"""The routing of a step in all MoE layers together: for a few tokens, an operation takes as long as for many."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from model.layers.router import Routing


@dataclass(frozen=True, slots=True, eq=False)
class StepRouting:
    """The choices of T tokens in the L MoE layers, whose indices in the network are `layers`.

    Layers with fewer choices or experts than others are filled up: with weights of zero, which are not computed, and
    with logits of minus infinity, which stand for experts that no token may go to.
    """

    layers: tuple[int, ...]
    weights_LTK: Tensor  # float32
    experts_LTK: Tensor  # int64
    router_logits_LTE: Tensor  # float32

    @classmethod
    def stack(cls, routings: Sequence[Routing | None]) -> "StepRouting | None":
        """Copies what the network's layers returned; None if none of them has experts."""
        found = {layer: routing for layer, routing in enumerate(routings) if routing is not None}
        if not found:
            return None
        return cls(
            tuple(found),
            _stacked([routing.weights_TK for routing in found.values()]),
            _stacked([routing.experts_TK for routing in found.values()]),
            _stacked([routing.router_logits_TE for routing in found.values()], float("-inf")),
        )

    def clone(self) -> "StepRouting":
        """A copy with memory of its own."""
        return StepRouting(
            self.layers, self.weights_LTK.clone(), self.experts_LTK.clone(), self.router_logits_LTE.clone()
        )

    @property
    def num_tokens(self) -> int:
        return self.weights_LTK.shape[1]


def _stacked(layers: list[Tensor], padding: float = 0) -> Tensor:
    """The tensors [T, N] of the layers as one, filled up to the largest N."""
    widths = [layer.shape[1] for layer in layers]
    if len(set(widths)) > 1:
        layers = [
            functional.pad(layer, (0, max(widths) - width), value=padding)
            for layer, width in zip(layers, widths, strict=True)
        ]
    return torch.stack(layers)
