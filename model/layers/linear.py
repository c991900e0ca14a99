"""Matrix products without bias: trainable, and packed for serving on a CPU.

oneDNN's product of a prepacked weight gives every row the same bits whatever the number of rows, in bfloat16 and in
float32; the plain float32 product does not. Serving therefore packs every weight.

Shapes: T tokens, I input width, O output width, E experts, S dispatched (token, expert) pairs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Linear(nn.Module):
    """y_TO = x_TI @ weight_OI^T."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))

    def forward(self, x_TI: Tensor) -> Tensor:
        return functional.linear(x_TI, self.weight)


class GroupedLinear(nn.Module):
    """One matrix per expert; rows come sorted by expert, `counts_E` of them for each."""

    def __init__(self, experts: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, outputs, inputs))

    def forward(self, x_SI: Tensor, counts_E: Tensor) -> Tensor:
        ends_E = counts_E.cumsum(0).to(torch.int32)
        return functional.grouped_mm(x_SI, self.weight.transpose(1, 2), offs=ends_E)


class PackedLinear(nn.Module):
    """A frozen `Linear` in oneDNN's own layout."""

    def __init__(self, weight_OI: Tensor) -> None:
        super().__init__()
        self.packed = pack(weight_OI)

    def forward(self, x_TI: Tensor) -> Tensor:
        return packed_product(x_TI, self.packed)


class PackedGroupedLinear(nn.Module):
    """A frozen `GroupedLinear`: the weights of an expert are read once a step, and only if a token goes there."""

    def __init__(self, weight_EOI: Tensor) -> None:
        super().__init__()
        self.packed = [pack(weight_OI) for weight_OI in weight_EOI]
        self.outputs = weight_EOI.shape[1]

    def forward(self, x_SI: Tensor, counts_E: Tensor) -> Tensor:
        pieces = x_SI.split(counts_E.tolist())
        outs = [packed_product(x, weight) for x, weight in zip(pieces, self.packed, strict=True) if len(x)]
        return torch.cat(outs) if outs else x_SI.new_empty(0, self.outputs)


def pack(weight_OI: Tensor) -> Tensor:
    """The weight in the layout that `packed_product` wants."""
    return torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach().contiguous())


def packed_product(x_TI: Tensor, packed: Tensor) -> Tensor:
    """x_TI times a packed weight: [T, O], each row independent of the others to the last bit."""
    return torch.ops.mkldnn._linear_pointwise(x_TI, packed, None, "none", [], "")


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this machine's oneDNN multiplies packed weights of that type."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        packed_product(torch.zeros(1, 16, dtype=dtype), pack(torch.zeros(16, 16, dtype=dtype)))
    except RuntimeError:
        return False
    return True
