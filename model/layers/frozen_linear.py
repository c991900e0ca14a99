"""Linear layers as they are served on a CPU: packed, and not to be trained.

kernels/product.py multiplies them. By its compiled products, every row has the same bits whatever the number of rows
and threads; by their definition, which computes where nothing was compiled, it has not.

Shapes: T tokens, I input width, O output width, S dispatched (token, expert) pairs.
"""

import torch
from torch import Tensor, nn

from model.kernels import product
from model.kernels.product import FeedForwardWeights, Panels
from model.kernels.product_reference import PlainWeights


class PackedLinear(nn.Module):
    """A frozen `Linear`; its weights may be integers."""

    def __init__(self, weights: Panels | PlainWeights) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, x_TI: Tensor) -> Tensor:
        return product.product(x_TI, self.weights)

    def in_float32(self, x_TI: Tensor) -> Tensor:
        return product.sums(x_TI, self.weights)


class PackedEmbedding(nn.Module):
    """A frozen embedding that lies in a head's weights: a tied matrix is in memory once."""

    def __init__(self, weights: Panels | PlainWeights, dtype: torch.dtype) -> None:
        super().__init__()
        self.weights, self.dtype = weights, dtype

    def forward(self, token_ids_T: Tensor) -> Tensor:
        return self.weights.rows(token_ids_T).to(self.dtype)


class PackedGroupedLinear(nn.Module):
    """A frozen `GroupedLinear`: an expert's weights are read if a token goes there."""

    def __init__(self, weights: Panels | PlainWeights) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, x_SI: Tensor, counts_E: Tensor) -> Tensor:
        return product.grouped_product(x_SI, counts_E, self.weights)


def feed_forward_weights(gate_up: nn.Module, down: nn.Module) -> FeedForwardWeights | None:
    """Both products of a feed-forward, or of all experts, for the call that computes it whole; None if it cannot."""
    if not isinstance(gate_up, PackedLinear | PackedGroupedLinear) or not isinstance(down, type(gate_up)):
        return None
    if not isinstance(gate_up.weights, Panels) or not isinstance(down.weights, Panels):
        return None
    whole = down.weights.outputs % product.PANEL == 0 and down.weights.inputs % product.PANEL == 0
    return FeedForwardWeights(gate_up.weights, down.weights) if whole else None
