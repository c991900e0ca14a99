"""Linear layers as they are served on a CPU: packed, and not to be trained.

Every row has the same bits whatever the number of rows and threads. The compiled products (kernels/product.py), whose
weights lie in panels, are made so. Without them there is oneDNN's product of a prepacked weight, which was measured to
be so in bfloat16 and in float32; the plain float32 product is not.

Shapes: T tokens, I input width, O output width, E experts, S dispatched (token, expert) pairs.
"""

import torch
from torch import Tensor, nn

from model.kernels import product
from model.kernels.product import FeedForwardWeights, Panels


class PanelLinear(nn.Module):
    """A frozen `Linear` for the compiled product; its weights may be integers."""

    def __init__(self, panels: Panels) -> None:
        super().__init__()
        self.panels = panels

    def forward(self, x_TI: Tensor) -> Tensor:
        if x_TI.dtype == torch.float16:
            return product.product(x_TI.float(), self.panels).half()
        return product.product(x_TI, self.panels)

    def in_float32(self, x_TI: Tensor) -> Tensor:
        return product.sums(x_TI.float() if x_TI.dtype == torch.float16 else x_TI, self.panels)


class PanelEmbedding(nn.Module):
    """A frozen embedding that lies in a head's panels: a tied matrix is in memory once."""

    def __init__(self, panels: Panels, dtype: torch.dtype) -> None:
        super().__init__()
        self.panels, self.dtype = panels, dtype

    def forward(self, token_ids_T: Tensor) -> Tensor:
        return self.panels.rows(token_ids_T).to(self.dtype)


class PanelGroupedLinear(nn.Module):
    """A frozen `GroupedLinear` for the compiled product: an expert's weights are read if a token goes there."""

    def __init__(self, panels: Panels) -> None:
        super().__init__()
        self.panels = panels

    def forward(self, x_SI: Tensor, counts_E: Tensor) -> Tensor:
        if x_SI.dtype == torch.float16:
            return product.grouped_product(x_SI.float(), counts_E, self.panels).half()
        return product.grouped_product(x_SI, counts_E, self.panels)


def feed_forward_weights(gate_up: nn.Module, down: nn.Module) -> FeedForwardWeights | None:
    """Both products of a feed-forward, or of all experts, for the call that computes it whole; None if it cannot."""
    if not isinstance(gate_up, PanelLinear | PanelGroupedLinear) or not isinstance(down, type(gate_up)):
        return None
    return FeedForwardWeights(gate_up.panels, down.panels) if down.panels.outputs % product.PANEL == 0 else None


class OneDNNLinear(nn.Module):
    """A frozen `Linear` in oneDNN's own layout."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> None:
        super().__init__()
        self.packed = onednn_pack(weight_OI)
        self.bias = None if bias_O is None else bias_O.detach().to(weight_OI.dtype)

    def forward(self, x_TI: Tensor) -> Tensor:
        return onednn_product(x_TI, self.packed, self.bias)

    def in_float32(self, x_TI: Tensor) -> Tensor:
        product_TO: Tensor = self(x_TI.to(self.packed.dtype))
        return product_TO.float()


class OneDNNGroupedLinear(nn.Module):
    """A frozen `GroupedLinear` in oneDNN's own layout, one call per expert that has rows."""

    def __init__(self, weight_EOI: Tensor, bias_EO: Tensor | None = None) -> None:
        super().__init__()
        biases = [None] * len(weight_EOI) if bias_EO is None else list(bias_EO)
        self.experts = nn.ModuleList(map(OneDNNLinear, weight_EOI, biases))
        self.outputs = weight_EOI.shape[1]

    def forward(self, x_SI: Tensor, counts_E: Tensor) -> Tensor:
        pieces = x_SI.split(counts_E.tolist())
        outs = [expert(x) for x, expert in zip(pieces, self.experts, strict=True) if len(x)]
        return torch.cat(outs) if outs else x_SI.new_empty(0, self.outputs)


def onednn_pack(weight_OI: Tensor) -> Tensor:
    """The weight in the layout that `onednn_product` wants."""
    return torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach().contiguous())


def onednn_product(x_TI: Tensor, packed: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """x_TI times a packed weight, plus the bias: [T, O], each row independent of the others to the last bit."""
    return torch.ops.mkldnn._linear_pointwise(x_TI, packed, bias_O, "none", [], "")


def has_onednn_product(dtype: torch.dtype) -> bool:
    """Whether this machine's oneDNN multiplies packed weights of that type."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        onednn_product(torch.zeros(1, 16, dtype=dtype), onednn_pack(torch.zeros(16, 16, dtype=dtype)))
    except RuntimeError:
        return False
    return True
