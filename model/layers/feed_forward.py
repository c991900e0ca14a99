"""Feed-forward layers: a gated MLP, or a mixture of experts (MoE).

Shapes: T tokens, D hidden width, F inner width, E experts, K choices per token, S dispatched (token, expert) pairs,
P the same with the rows of each expert padded to whole blocks.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from model import kernels
from model.config import ActivationConfig, ClampedSwiGLU, GatedMLPConfig, MoEConfig
from model.layers.frozen_linear import fused_mlp_weights
from model.layers.linear import GroupedLinear, Linear, RouterLinear
from model.layers.router import Routing, build_router

BLOCK = 32  # rows


class GatedMLP(nn.Module):
    """down(silu(gate(x)) * up(x)), with gate and up as one matrix."""

    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__()
        self.gate_up = Linear(hidden_size, 2 * width)
        self.down = Linear(width, hidden_size)

    def forward(self, x_TD: Tensor) -> Tensor:
        weights = fused_mlp_weights(self.gate_up, self.down, x_TD.dtype)
        if weights is not None:
            return kernels.gated_mlp(x_TD, weights)
        out: Tensor = self.down(kernels.silu_mul(self.gate_up(x_TD)))
        return out


class Experts(nn.Module):
    """E gated MLPs; each token is processed by those that the router chose."""

    def __init__(self, config: MoEConfig, hidden_size: int) -> None:
        super().__init__()
        self.num_experts = config.num_experts
        self.gate_up = GroupedLinear(config.num_experts, hidden_size, 2 * config.expert_width, config.bias)
        self.down = GroupedLinear(config.num_experts, config.expert_width, hidden_size, config.bias)
        self.activation = build_activation(config.activation)

    def forward(self, x_TD: Tensor, routing: Routing) -> Tensor:
        """Unweighted outputs [T, K, D]; zero for choices of weight zero, which are not computed."""
        experts_S, order_S = routing.dispatch()
        counts_E = torch.bincount(experts_S, minlength=self.num_experts)
        tokens_S = order_S // routing.experts_TK.shape[1]
        if self.training:
            y_SD = self._run_padded(x_TD, experts_S, tokens_S, counts_E)
        else:
            y_SD = self._run_experts(x_TD.index_select(0, tokens_S), counts_E)
        return undispatched(y_SD, order_S, routing)

    def _run_experts(self, x_SD: Tensor, counts_E: Tensor) -> Tensor:
        y_SD: Tensor = self.down(self.activation(self.gate_up(x_SD, counts_E)), counts_E)
        return y_SD

    def _run_padded(self, x_TD: Tensor, experts_S: Tensor, tokens_S: Tensor, counts_E: Tensor) -> Tensor:
        """The same with the rows of each expert padded to whole blocks.

        oneDNN compiles a kernel for every new number of rows, which takes longer than most of the products themselves.
        """
        blocks_E = (counts_E + BLOCK - 1) // BLOCK * BLOCK
        shift_E = (blocks_E - counts_E).cumsum(0) - (blocks_E - counts_E)
        places_S = torch.arange(len(tokens_S), device=tokens_S.device) + shift_E[experts_S]
        tokens_P = tokens_S.new_zeros(int(blocks_E.sum())).index_copy_(0, places_S, tokens_S)
        return self._run_experts(x_TD.index_select(0, tokens_P), blocks_E).index_select(0, places_S)


class MoE(nn.Module):
    """A mixture of experts: a router, its experts and optionally a shared expert, which may have a sigmoid gate."""

    def __init__(self, config: MoEConfig, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        self.router = build_router(config.router, config.num_experts)
        self.clamp = (
            (config.activation.alpha, config.activation.limit) if isinstance(config.activation, ClampedSwiGLU) else None
        )
        self.shared_is_gated = config.shared is not None and config.shared.gated
        # row e gives the logit of expert e; an additional last row gates the shared expert
        self.gate = RouterLinear(hidden_size, config.num_experts + self.shared_is_gated, config.bias)
        self.experts = Experts(config, hidden_size)
        self.shared = GatedMLP(hidden_size, config.shared.width) if config.shared else None

    def forward(self, x_TD: Tensor, token_ids_T: Tensor, k: int | Tensor | None = None) -> tuple[Tensor, Routing]:
        """`k`: experts per token, as in `TokenBatch.experts_per_token`. Returns y_TD and the routing."""
        routing, shared_gate_T = self.route(x_TD, token_ids_T, k)
        return self.outputs(x_TD, routing, shared_gate_T), routing

    def outputs(self, x_TD: Tensor, routing: Routing, shared_gate_T: Tensor | None) -> Tensor:
        """The outputs for a known routing."""
        y_TD = self._fused(x_TD, routing, shared_gate_T)
        if y_TD is not None:
            return y_TD
        shared_TD = None if self.shared is None else self.shared(x_TD)
        return self.combine(self.experts(x_TD, routing), shared_TD, routing, shared_gate_T)

    def _fused(self, x_TD: Tensor, routing: Routing, shared_gate_T: Tensor | None) -> Tensor | None:
        """All experts in one compiled call; None if their weights are not packed for it."""
        experts, shared, shared_weights = self.experts, self.shared, None
        weights = fused_mlp_weights(experts.gate_up, experts.down, x_TD.dtype)
        if shared is not None:
            shared_weights = fused_mlp_weights(shared.gate_up, shared.down, x_TD.dtype)
        if weights is None or (shared_weights is None) != (shared is None):
            return None
        if shared_weights is not None and not kernels.supports_fused_mlp(x_TD.dtype, weights, shared_weights):
            return None
        choices = (routing.experts_TK, routing.weights_TK)
        return kernels.moe(x_TD, *choices, weights, shared_weights, shared_gate_T, self.clamp)

    def combine(
        self, y_TKD: Tensor, shared_TD: Tensor | None, routing: Routing, shared_gate_T: Tensor | None
    ) -> Tensor:
        """The weighted sum of the outputs of a token's experts and of the shared expert."""
        if shared_TD is not None and shared_gate_T is None:
            return kernels.moe_combine(y_TKD, routing.weights_TK, None, None) + shared_TD
        return kernels.moe_combine(y_TKD, routing.weights_TK, shared_TD, shared_gate_T)

    def route(self, x_TD: Tensor, token_ids_T: Tensor, k: int | Tensor | None = None) -> tuple[Routing, Tensor | None]:
        """The routing, and the logit of the shared expert's gate if it has one."""
        logits = self.gate.in_float32(x_TD)
        asked = () if k is None else (k,)  # only a TopKRouter takes it
        routing = self.router(logits[:, : self.config.num_experts], token_ids_T, *asked)
        return routing, logits[:, -1] if self.shared_is_gated else None


def undispatched(y_SD: Tensor, order_S: Tensor, routing: Routing) -> Tensor:
    """The outputs of dispatched choices in the order of `routing`: [T, K, D]; zero for choices of weight zero."""
    y = y_SD.new_zeros(routing.experts_TK.numel(), y_SD.shape[1]).index_copy(0, order_S, y_SD)
    return y.unflatten(0, routing.experts_TK.shape)


def build_activation(config: ActivationConfig) -> Callable[[Tensor], Tensor]:
    """The activation between the two matrices of an expert: [S, 2F] -> [S, F]."""
    if isinstance(config, ClampedSwiGLU):
        return lambda x_S2F: kernels.clamped_mul(x_S2F, config.alpha, config.limit)
    return kernels.silu_mul


def build_feed_forward(config: GatedMLPConfig | MoEConfig, hidden_size: int) -> GatedMLP | MoE:
    if isinstance(config, MoEConfig):
        return MoE(config, hidden_size)
    return GatedMLP(hidden_size, config.width)
