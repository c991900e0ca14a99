"""Feed-forwards: one gated network for all tokens, or experts that a router chooses per token.

Shapes: T tokens, D hidden width, F inner width, E experts, K choices, S dispatched (token, expert) pairs, P the same
with each expert's filled up to whole blocks.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from model import kernels
from model.config import ActivationConfig, ClampedSwiGLU, GatedMLPConfig, MoEConfig
from model.kernels import native, product
from model.layers.frozen_linear import feed_forward_weights
from model.layers.linear import GroupedLinear, Linear, RouterLinear
from model.layers.router import Routing, build_router

BLOCK = 32  # rows


class GatedMLP(nn.Module):
    """silu(gate) * up, then down. Gate and up are one product."""

    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__()
        self.gate_up = Linear(hidden_size, 2 * width)
        self.down = Linear(width, hidden_size)

    def forward(self, x_TD: Tensor) -> Tensor:
        weights = feed_forward_weights(self.gate_up, self.down)
        if weights is not None and x_TD.dtype in native.SUFFIXES:
            return product.feed_forward(x_TD, weights)
        out: Tensor = self.down(kernels.silu_mul(self.gate_up(x_TD)))
        return out


class Experts(nn.Module):
    """E gated networks; each token passes through those it was routed to."""

    def __init__(self, config: MoEConfig, hidden_size: int) -> None:
        super().__init__()
        self.num_experts = config.num_experts
        self.gate_up = GroupedLinear(config.num_experts, hidden_size, 2 * config.expert_width, config.bias)
        self.down = GroupedLinear(config.num_experts, config.expert_width, hidden_size, config.bias)
        self.activation = build_activation(config.activation)

    def forward(self, x_TD: Tensor, routing: Routing) -> Tensor:
        """Outputs before weighting: [T, K, D]; zero where a choice has weight zero and is not computed."""
        experts_S, order_S = routing.dispatch()
        counts_E = torch.bincount(experts_S, minlength=self.num_experts)
        tokens_S = order_S // routing.experts_TK.shape[1]
        if self.training:
            y_SD = self._in_blocks(x_TD, experts_S, tokens_S, counts_E)
        else:
            y_SD = self._products(x_TD.index_select(0, tokens_S), counts_E)
        y = y_SD.new_zeros(routing.experts_TK.numel(), x_TD.shape[1]).index_copy(0, order_S, y_SD)
        return y.unflatten(0, routing.experts_TK.shape)

    def _products(self, x_SD: Tensor, counts_E: Tensor) -> Tensor:
        y_SD: Tensor = self.down(self.activation(self.gate_up(x_SD, counts_E)), counts_E)
        return y_SD

    def _in_blocks(self, x_TD: Tensor, experts_S: Tensor, tokens_S: Tensor, counts_E: Tensor) -> Tensor:
        """The same with each expert's rows filled up to whole blocks, by rows whose outputs nobody reads.

        oneDNN compiles a product anew for each number of rows it meets, which took longer than most of the products.
        """
        blocks_E = (counts_E + BLOCK - 1) // BLOCK * BLOCK
        shift_E = (blocks_E - counts_E).cumsum(0) - (blocks_E - counts_E)
        places_S = torch.arange(len(tokens_S), device=tokens_S.device) + shift_E[experts_S]
        tokens_P = tokens_S.new_zeros(int(blocks_E.sum())).index_copy_(0, places_S, tokens_S)
        return self._products(x_TD.index_select(0, tokens_P), blocks_E).index_select(0, places_S)


class MoE(nn.Module):
    """A router, its experts and, if configured, a shared expert, perhaps behind a sigmoid gate."""

    def __init__(self, config: MoEConfig, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        self.router = build_router(config.router, config.num_experts)
        self.clamp = (
            (config.activation.alpha, config.activation.limit) if isinstance(config.activation, ClampedSwiGLU) else None
        )
        self.shared_is_gated = config.shared is not None and config.shared.gated
        # row e scores expert e; a last row may gate the shared expert
        self.gate = RouterLinear(hidden_size, config.num_experts + self.shared_is_gated, config.bias)
        self.experts = Experts(config, hidden_size)
        self.shared = GatedMLP(hidden_size, config.shared.width) if config.shared else None

    def forward(self, x_TD: Tensor, token_ids_T: Tensor) -> tuple[Tensor, Routing]:
        routing, shared_gate_T = self.route(x_TD, token_ids_T)
        whole = self._in_one_call(x_TD, routing, shared_gate_T)
        return (self._by_steps(x_TD, routing, shared_gate_T) if whole is None else whole), routing

    def _in_one_call(self, x_TD: Tensor, routing: Routing, shared_gate_T: Tensor | None) -> Tensor | None:
        """All experts in one compiled call, where they are packed for it."""
        routed = feed_forward_weights(self.experts.gate_up, self.experts.down)
        shared = feed_forward_weights(self.shared.gate_up, self.shared.down) if self.shared is not None else None
        if routed is None or (shared is None) != (self.shared is None) or x_TD.dtype not in native.SUFFIXES:
            return None
        choices = (routing.experts_TK, routing.weights_TK)
        return product.experts(x_TD, *choices, routed, shared, shared_gate_T, self.clamp)

    def _by_steps(self, x_TD: Tensor, routing: Routing, shared_gate_T: Tensor | None) -> Tensor:
        y_TKD = self.experts(x_TD, routing)
        if self.shared is None:
            return kernels.combine(y_TKD, routing.weights_TK, None, None)
        if shared_gate_T is None:
            return kernels.combine(y_TKD, routing.weights_TK, None, None) + self.shared(x_TD)
        return kernels.combine(y_TKD, routing.weights_TK, self.shared(x_TD), shared_gate_T)

    def route(self, x_TD: Tensor, token_ids_T: Tensor) -> tuple[Routing, Tensor | None]:
        """The experts of every token, and the gate of the shared expert (before its sigmoid) where it has one."""
        gates = self.gate.in_float32(x_TD)
        routing = self.router(gates[:, : self.config.num_experts], token_ids_T)
        return routing, gates[:, -1] if self.shared_is_gated else None


def build_activation(config: ActivationConfig) -> Callable[[Tensor], Tensor]:
    """The activation between an expert's two products: [S, 2F] -> [S, F]."""
    if isinstance(config, ClampedSwiGLU):
        return lambda x_S2F: kernels.clamped_mul(x_S2F, config.alpha, config.limit)
    return kernels.silu_mul


def build_feed_forward(config: GatedMLPConfig | MoEConfig, hidden_size: int) -> GatedMLP | MoE:
    if isinstance(config, MoEConfig):
        return MoE(config, hidden_size)
    return GatedMLP(hidden_size, config.width)
