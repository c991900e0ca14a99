"""Linear layers and embeddings for serving: their weights are packed or quantized and cannot be trained.

The compiled matrix products give every row the same bits whatever the number of rows and threads; see
model/kernels/__init__.py for where they compute.

Shapes: T tokens, I input width, O output width, S dispatched (token, expert) pairs.
"""

import torch
from torch import Tensor, nn

from model import kernels
from model.kernels import FrozenWeights
from model.kernels.types import GatedMLPWeights


class FrozenLinear(nn.Module):
    """A `Linear` with frozen weights."""

    def __init__(self, weights: FrozenWeights) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, x_TI: Tensor) -> Tensor:
        return kernels.linear(x_TI, self.weights)

    def in_float32(self, x_TI: Tensor) -> Tensor:
        """The same with float32 outputs."""
        return kernels.linear(x_TI, self.weights, torch.float32)


class FrozenGroupedLinear(nn.Module):
    """A `GroupedLinear` with frozen weights; those of an expert are read only if it has rows."""

    def __init__(self, weights: FrozenWeights) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, x_SI: Tensor, counts_E: Tensor) -> Tensor:
        return kernels.grouped_linear(x_SI, counts_E, self.weights)


class FrozenEmbedding(nn.Module):
    """An embedding that reads the weights of the head it is tied to, so that they are in memory once."""

    def __init__(self, weights: FrozenWeights, dtype: torch.dtype) -> None:
        super().__init__()
        self.weights, self.dtype = weights, dtype

    def forward(self, token_ids_T: Tensor) -> Tensor:
        return self.weights.rows(token_ids_T).to(self.dtype)


def fused_mlp_weights(gate_up: nn.Module, down: nn.Module, dtype: torch.dtype) -> GatedMLPWeights[FrozenWeights] | None:
    """The weights of a gated MLP, or of all experts, for `kernels.gated_mlp` or `kernels.moe`.

    None if no compiled call supports them with activations of this type.
    """
    if not isinstance(gate_up, FrozenLinear | FrozenGroupedLinear) or not isinstance(down, type(gate_up)):
        return None
    weights = GatedMLPWeights(gate_up.weights, down.weights)
    return weights if kernels.supports_fused_mlp(dtype, weights) else None
