"""Matrix products with or without bias: trainable, and packed for serving on a CPU.

Packed, every row has the same bits whatever the number of rows and threads. The compiled products (kernels/product.py)
are made so. Without them there is oneDNN's product of a prepacked weight, which was measured to be so in bfloat16 and
in float32; the plain float32 product is not.

Shapes: T tokens, I input width, O output width, E experts, S dispatched (token, expert) pairs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.kernels import product
from model.kernels.product import Feed, Panels


class Linear(nn.Module):
    """y_TO = x_TI @ weight_OI^T + bias_O."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x_TI: Tensor) -> Tensor:
        return functional.linear(x_TI, self.weight, self.bias)

    def in_float32(self, x_TI: Tensor) -> Tensor:
        """The product in the weights' type, returned in float32: for scores, which are compared with each other."""
        product_TO: Tensor = self(x_TI.to(self.weight.dtype))
        return product_TO.float()


class RouterLinear(Linear):
    """The scores by which tokens choose their experts: a few rows that decide where everything else is computed.

    Two scores nearly tie often, and a rounding would send the token elsewhere: whatever the network's type and scheme,
    these weights stay in float32. They start small, so that no expert is preferred, and learn at a rate of their own.
    """


class GroupedLinear(nn.Module):
    """One matrix (and bias) per expert; rows come sorted by expert, `counts_E` of them for each."""

    def __init__(self, experts: int, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, outputs, inputs))
        self.bias = nn.Parameter(torch.empty(experts, outputs)) if bias else None

    def forward(self, x_SI: Tensor, counts_E: Tensor) -> Tensor:
        ends_E = counts_E.cumsum(0).to(torch.int32)
        y_SO = functional.grouped_mm(x_SI, self.weight.transpose(1, 2), offs=ends_E)
        return y_SO if self.bias is None else y_SO + self.bias.repeat_interleave(counts_E, dim=0)


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


def feed_of(gate_up: nn.Module, down: nn.Module) -> Feed | None:
    """Both products of a feed-forward, or of all experts, for the call that computes it whole; None if it cannot."""
    if not isinstance(gate_up, PanelLinear | PanelGroupedLinear) or not isinstance(down, type(gate_up)):
        return None
    return Feed(gate_up.panels, down.panels) if down.panels.outputs % product.PANEL == 0 else None


class PackedLinear(nn.Module):
    """A frozen `Linear` in oneDNN's own layout."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> None:
        super().__init__()
        self.packed = pack(weight_OI)
        self.bias = None if bias_O is None else bias_O.detach().to(weight_OI.dtype)

    def forward(self, x_TI: Tensor) -> Tensor:
        return packed_product(x_TI, self.packed, self.bias)

    def in_float32(self, x_TI: Tensor) -> Tensor:
        product_TO: Tensor = self(x_TI.to(self.packed.dtype))
        return product_TO.float()


class PackedGroupedLinear(nn.Module):
    """A frozen `GroupedLinear` in oneDNN's own layout, one call per expert that has rows."""

    def __init__(self, weight_EOI: Tensor, bias_EO: Tensor | None = None) -> None:
        super().__init__()
        biases = [None] * len(weight_EOI) if bias_EO is None else list(bias_EO)
        self.experts = nn.ModuleList(map(PackedLinear, weight_EOI, biases))
        self.outputs = weight_EOI.shape[1]

    def forward(self, x_SI: Tensor, counts_E: Tensor) -> Tensor:
        pieces = x_SI.split(counts_E.tolist())
        outs = [expert(x) for x, expert in zip(pieces, self.experts, strict=True) if len(x)]
        return torch.cat(outs) if outs else x_SI.new_empty(0, self.outputs)


def pack(weight_OI: Tensor) -> Tensor:
    """The weight in the layout that `packed_product` wants."""
    return torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach().contiguous())


def packed_product(x_TI: Tensor, packed: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """x_TI times a packed weight, plus the bias: [T, O], each row independent of the others to the last bit."""
    return torch.ops.mkldnn._linear_pointwise(x_TI, packed, bias_O, "none", [], "")


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this machine's oneDNN multiplies packed weights of that type."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        packed_product(torch.zeros(1, 16, dtype=dtype), pack(torch.zeros(16, 16, dtype=dtype)))
    except RuntimeError:
        return False
    return True
