"""Feed-forwards: one gated network for all tokens, or experts that a router chooses per token.

Shapes: T tokens, D hidden width, F inner width, E experts, K choices, S dispatched (token, expert) pairs.
"""

import torch
from torch import Tensor, nn

from model import kernels
from model.config import DenseConfig, RoutedConfig
from model.layers.linear import GroupedLinear, Linear
from model.layers.router import Routing, build_router


class Dense(nn.Module):
    """silu(gate) * up, then down. Gate and up are one product."""

    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__()
        self.gate_up = Linear(hidden_size, 2 * width)
        self.down = Linear(width, hidden_size)

    def forward(self, x_TD: Tensor) -> Tensor:
        out: Tensor = self.down(kernels.silu_mul(self.gate_up(x_TD)))
        return out


class Experts(nn.Module):
    """E gated networks; each token passes through those it was routed to."""

    def __init__(self, num_experts: int, hidden_size: int, width: int) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.gate_up = GroupedLinear(num_experts, hidden_size, 2 * width)
        self.down = GroupedLinear(num_experts, width, hidden_size)

    def forward(self, x_TD: Tensor, routing: Routing) -> Tensor:
        """Outputs before weighting: [T, K, D]; zero where a choice has weight zero and is not computed."""
        experts_S, order_S = routing.dispatch()
        counts_E = torch.bincount(experts_S, minlength=self.num_experts)
        tokens_S = order_S // routing.experts_TK.shape[1]
        y_SD = self.down(kernels.silu_mul(self.gate_up(x_TD.index_select(0, tokens_S), counts_E)), counts_E)
        y = y_SD.new_zeros(routing.experts_TK.numel(), x_TD.shape[1]).index_copy(0, order_S, y_SD)
        return y.unflatten(0, routing.experts_TK.shape)


class Routed(nn.Module):
    """A router, its experts and, if configured, a shared expert behind a sigmoid gate."""

    def __init__(self, config: RoutedConfig, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        self.router = build_router(config.router, config.num_experts)
        # Row e scores expert e; a last row gates the shared expert. In float32 always: near ties must not flip.
        self.gate = Linear(hidden_size, config.num_experts + (1 if config.shared_width else 0))
        self.experts = Experts(config.num_experts, hidden_size, config.expert_width)
        self.shared = Dense(hidden_size, config.shared_width) if config.shared_width else None

    def forward(self, x_TD: Tensor, token_ids_T: Tensor) -> tuple[Tensor, Routing]:
        gates = self.gate(x_TD.float())
        routing = self.router(gates[:, : self.config.num_experts], token_ids_T)
        y_TKD = self.experts(x_TD, routing)
        shared_TD = self.shared(x_TD) if self.shared is not None else None
        shared_gate_T = gates[:, -1] if self.shared is not None else None
        return kernels.combine(y_TKD, routing.weights_TK, shared_TD, shared_gate_T), routing


def build_feed_forward(config: DenseConfig | RoutedConfig, hidden_size: int) -> Dense | Routed:
    if isinstance(config, RoutedConfig):
        return Routed(config, hidden_size)
    return Dense(hidden_size, config.width)
