"""Feed-forward layers: a gated MLP, or a mixture of experts (MoE).

Shapes: T tokens, D hidden width, F inner width, E experts, K choices per token, S dispatched (token, expert) pairs,
P the same with the rows of each expert padded to whole blocks.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from model import kernels
from model.config import ActivationConfig, ClampedSwiGLU, GatedMLPConfig, GeGLU, MoEConfig, SquaredReLU, SwiGLU
from model.kernels import FrozenWeights
from model.kernels.types import GatedMLPWeights
from model.layers.frozen_linear import fused_mlp_weights
from model.layers.linear import GroupedLinear, Linear, RouterLinear
from model.layers.router import Routing, build_router

BLOCK = 32  # rows


class GatedMLP(nn.Module):
    """down(act(gate(x)) * up(x)), with gate and up as one matrix, or without a gate down(act(up(x)))."""

    def __init__(self, hidden_size: int, width: int, activation: ActivationConfig) -> None:
        super().__init__()
        self.gate_up = Linear(hidden_size, activation.inputs * width)
        self.down = Linear(width, hidden_size)
        self.activation = build_activation(activation)

    def forward(self, x_TD: Tensor) -> Tensor:
        weights = self.fused_weights(x_TD.dtype)
        if weights is not None:
            return kernels.gated_mlp(x_TD, weights)
        out: Tensor = self.down(self.activation(self.gate_up(x_TD)))
        return out

    def fused_weights(self, dtype: torch.dtype) -> GatedMLPWeights[FrozenWeights] | None:
        """The weights for `kernels.gated_mlp`, or None where it does not compute this MLP."""
        if self.activation is not kernels.silu_mul:
            return None
        return fused_mlp_weights(self.gate_up, self.down, dtype)


class Experts(nn.Module):
    """E gated MLPs; each token is processed by those that the router chose."""

    def __init__(self, config: MoEConfig, hidden_size: int) -> None:
        super().__init__()
        self.num_experts = config.num_experts
        inner = config.activation.inputs * config.expert_width
        self.gate_up = GroupedLinear(config.num_experts, hidden_size, inner, config.bias)
        self.down = GroupedLinear(config.num_experts, config.expert_width, hidden_size, config.bias)
        self.activation = build_activation(config.activation)
        self.can_be_fused = isinstance(config.activation, SwiGLU | ClampedSwiGLU)

    def forward(self, x_TD: Tensor, routing: Routing) -> Tensor:
        """Unweighted outputs [T, K, D].

        Choices of weight zero are not computed and have zeros, except in training on a GPU.
        """
        if self.training and x_TD.is_cuda:
            return self._run_all(x_TD, routing)
        experts_S, order_S = routing.dispatch()
        counts_E = torch.bincount(experts_S, minlength=self.num_experts)
        tokens_S = order_S // routing.experts_TK.shape[1]
        if self.training:
            y_SD = self._run_padded(x_TD, experts_S, tokens_S, counts_E)
        else:
            y_SD = self._run_experts(x_TD.index_select(0, tokens_S), counts_E)
        return undispatched(y_SD, order_S, routing)

    def fused_weights(self, dtype: torch.dtype) -> GatedMLPWeights[FrozenWeights] | None:
        """The weights for `kernels.moe`, or None where it does not compute these experts."""
        return fused_mlp_weights(self.gate_up, self.down, dtype) if self.can_be_fused else None

    def _run_experts(self, x_SD: Tensor, counts_E: Tensor) -> Tensor:
        y_SD: Tensor = self.down(self.activation(self.gate_up(x_SD, counts_E)), counts_E)
        return y_SD

    def _run_all(self, x_TD: Tensor, routing: Routing) -> Tensor:
        """The outputs of all choices: no shape depends on values, for which the processor would wait for the GPU."""
        experts_S, order_S = routing.experts_TK.flatten().sort(stable=True)
        place_S = torch.empty_like(order_S).scatter_(0, order_S, torch.arange(len(order_S), device=order_S.device))
        counts_E = count_experts(experts_S, self.num_experts)
        repeated = x_TD[:, None].expand(-1, routing.experts_TK.shape[1], -1).flatten(0, 1)
        y_SD = self._run_experts(permuted(repeated, order_S, place_S), counts_E)
        return permuted(y_SD, place_S, order_S).unflatten(0, routing.experts_TK.shape)

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
        self.shared = GatedMLP(hidden_size, config.shared.width, config.activation) if config.shared else None

    def forward(
        self,
        x_TD: Tensor,
        token_ids_T: Tensor,
        k: int | Tensor | None = None,
        masked_TE: Tensor | None = None,
        rows_R: Tensor | None = None,
    ) -> tuple[Tensor, Routing]:
        """Returns y_TD and the routing. `k` and `masked_TE`: what a `TokenBatch` has of the layer.

        With `rows_R`, the experts compute these tokens alone, and y_RD is returned; the routing is that of all tokens.
        """
        routing, shared_gate_T = self.route(x_TD, token_ids_T, k, masked_TE)
        routed = (x_TD, routing, shared_gate_T)
        return self.outputs(*(routed if rows_R is None else of_tokens(*routed, rows_R))), routing

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
        weights = experts.fused_weights(x_TD.dtype)
        if shared is not None:
            shared_weights = shared.fused_weights(x_TD.dtype)
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

    def route(
        self,
        x_TD: Tensor,
        token_ids_T: Tensor,
        k: int | Tensor | None = None,
        masked_TE: Tensor | None = None,
    ) -> tuple[Routing, Tensor | None]:
        """The routing, and the logit of the shared expert's gate if it has one."""
        logits = self.gate.in_float32(x_TD)
        asked = () if k is None else (k,)  # only a TopKRouter takes it
        router_logits_TE = logits[:, : self.config.num_experts]
        if masked_TE is not None:
            router_logits_TE = router_logits_TE.masked_fill(masked_TE, float("-inf"))
        routing = self.router(router_logits_TE, token_ids_T, *asked)
        return routing, logits[:, -1] if self.shared_is_gated else None


def of_tokens(
    x_TD: Tensor, routing: Routing, shared_gate_T: Tensor | None, rows_R: Tensor
) -> tuple[Tensor, Routing, Tensor | None]:
    """What `MoE.outputs` takes, of some tokens, by index."""
    shared_gate_R = None if shared_gate_T is None else shared_gate_T.index_select(0, rows_R)
    return x_TD.index_select(0, rows_R), routing.of_tokens(rows_R), shared_gate_R


class _Permuted(torch.autograd.Function):
    """Rows in another order. The gradient of an index_select would be summed by atomic additions."""

    @staticmethod
    def forward(ctx, x_SD, order_S, place_S):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(place_S)
        return x_SD.index_select(0, order_S)

    @staticmethod
    def backward(ctx, dy_SD):  # type: ignore[no-untyped-def]
        (place_S,) = ctx.saved_tensors
        return dy_SD.index_select(0, place_S), None, None


def permuted(x_SD: Tensor, order_S: Tensor, place_S: Tensor) -> Tensor:
    """The rows in the order of a permutation, of which `place_S` is the inverse."""
    y_SD: Tensor = _Permuted.apply(x_SD, order_S, place_S)
    return y_SD


def count_experts(experts: Tensor, num_experts: int, counted: Tensor | None = None) -> Tensor:
    """How often each expert stands in `experts`, only where `counted` if given: int64 [E].

    torch.bincount would wait for the GPU.
    """
    ones = torch.ones_like(experts) if counted is None else counted.to(experts.dtype)
    return experts.new_zeros(num_experts).scatter_add_(0, experts.flatten(), ones.flatten())


def undispatched(y_SD: Tensor, order_S: Tensor, routing: Routing) -> Tensor:
    """The outputs of dispatched choices in the order of `routing`: [T, K, D]; zero for choices of weight zero."""
    y = y_SD.new_zeros(routing.experts_TK.numel(), y_SD.shape[1]).index_copy(0, order_S, y_SD)
    return y.unflatten(0, routing.experts_TK.shape)


def build_activation(config: ActivationConfig) -> Callable[[Tensor], Tensor]:
    """The activation between the two matrices of an expert: [S, 2F], or [S, F] without a gate, -> [S, F]."""
    if isinstance(config, ClampedSwiGLU):
        return lambda x_S2F: kernels.clamped_mul(x_S2F, config.alpha, config.limit)
    if isinstance(config, SquaredReLU):
        return kernels.squared_relu
    return kernels.gelu_mul if isinstance(config, GeGLU) else kernels.silu_mul


def build_feed_forward(config: GatedMLPConfig | MoEConfig, hidden_size: int) -> GatedMLP | MoE:
    if isinstance(config, MoEConfig):
        return MoE(config, hidden_size)
    return GatedMLP(hidden_size, config.width, config.activation)
