"""Trainable linear layers, with or without bias; frozen_linear.py has the layers that serve on a CPU.

Shapes: T tokens, I input width, O output width, E experts, S dispatched (token, expert) pairs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Linear(nn.Module):
    """y_TO = x_TI @ weight_OI^T + bias_O."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x_TI: Tensor) -> Tensor:
        return functional.linear(x_TI, self.weight, self.bias)

    def in_float32(self, x_TI: Tensor) -> Tensor:
        """The product in the weights' type, converted to float32: for logits, which are compared with each other."""
        product_TO: Tensor = self(x_TI.to(self.weight.dtype))
        return product_TO.float()


class RouterLinear(Linear):
    """The logits by which tokens are routed to experts.

    Its weights stay in float32 whatever the network's type and scheme, because two logits are often nearly equal and
    rounding could then route the token elsewhere. They start small, so that no expert is preferred, and have a learning
    rate of their own.
    """


class GroupedLinear(nn.Module):
    """One matrix, and bias, per expert. Rows are sorted by expert, `counts_E` for each."""

    def __init__(self, experts: int, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, outputs, inputs))
        self.bias = nn.Parameter(torch.empty(experts, outputs)) if bias else None

    def forward(self, x_SI: Tensor, counts_E: Tensor) -> Tensor:
        ends_E = counts_E.cumsum(0).to(torch.int32)
        y_SO = functional.grouped_mm(x_SI, self.weight.transpose(1, 2), offs=ends_E)
        return y_SO if self.bias is None else y_SO + self.bias.repeat_interleave(counts_E, dim=0)
