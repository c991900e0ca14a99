"""Feed-forward layers with LoRA adapters on their inner matrices.

The compiled call of a whole feed-forward knows no adapters. So the rows that adapters change are computed matrix by
matrix, and all others by the layer as it is, with the same bits as without adapters.

Shapes: T tokens, S tokens that adapters change, K choices per token, P dispatched (token, expert) pairs, N adapters of
the layer, E experts, D hidden width, F inner width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.layers.feed_forward import Experts, GatedMLP, MoE, of_tokens, undispatched
from model.layers.lora.linear import ActiveAdapters, AdapterRows, LoRAWeights
from model.layers.router import Routing


@dataclass(frozen=True, slots=True, eq=False)
class MLPAdapters:
    """The changes of a gated MLP, or of all experts. None: no adapter changes the matrix."""

    gate_up: LoRAWeights | None = None
    down: LoRAWeights | None = None

    @property
    def nbytes(self) -> int:
        """Memory that they take."""
        return sum(weights.nbytes for weights in (self.gate_up, self.down) if weights is not None)


class LoRAGatedMLP(nn.Module):
    """A gated MLP that adapters change. `adapters` are the indices of those that do."""

    def __init__(self, base: GatedMLP, adapters: tuple[int, ...], changes: MLPAdapters, active: ActiveAdapters) -> None:
        super().__init__()
        self.base, self._adapters, self._changes, self._active = base, adapters, changes, active

    def forward(self, x_TD: Tensor) -> Tensor:
        rows = self._active.rows(self._adapters)
        if rows is None:
            y_TD: Tensor = self.base(x_TD)
            return y_TD
        changed_SD = _mlp(self.base, self._changes, x_TD.index_select(0, rows.changed_S), rows)
        return _merged(x_TD, rows, changed_SD, lambda others: self.base(x_TD.index_select(0, others)))


class LoRAMoE(nn.Module):
    """A mixture of experts of which adapters change the experts, the shared expert, or both."""

    def __init__(
        self,
        base: MoE,
        adapters: tuple[int, ...],
        experts: MLPAdapters,
        shared: MLPAdapters,
        active: ActiveAdapters,
    ) -> None:
        super().__init__()
        self.base, self._adapters, self._active = base, adapters, active
        self._experts, self._shared = experts, shared

    def forward(
        self,
        x_TD: Tensor,
        token_ids_T: Tensor,
        k: int | Tensor | None = None,
        masked_TE: Tensor | None = None,
        rows_R: Tensor | None = None,
    ) -> tuple[Tensor, Routing]:
        """As `MoE.forward`. `rows_R` is for batches in which no token has an adapter."""
        rows = self._active.rows(self._adapters)
        if rows is None:
            y_TD, routing = self.base(x_TD, token_ids_T, k, masked_TE, rows_R)
            return y_TD, routing
        routing, gate_T = self.base.route(x_TD, token_ids_T, k, masked_TE)
        routed = (x_TD, routing, gate_T)
        changed_SD = self._changed(*of_tokens(*routed, rows.changed_S), rows)
        y_TD = _merged(x_TD, rows, changed_SD, lambda others: self.base.outputs(*of_tokens(*routed, others)))
        return y_TD, routing

    def _changed(self, x_SD: Tensor, routing: Routing, gate_S: Tensor | None, rows: AdapterRows) -> Tensor:
        y_SKD = _experts(self.base.experts, self._experts, x_SD, routing, rows)
        shared_SD = None if self.base.shared is None else _mlp(self.base.shared, self._shared, x_SD, rows)
        return self.base.combine(y_SKD, shared_SD, routing, gate_S)


def _merged(x_TD: Tensor, rows: AdapterRows, changed_SD: Tensor, base: Callable[[Tensor], Tensor]) -> Tensor:
    """The outputs of all rows; `base` computes those of rows that no adapter changes."""
    y_TD = torch.empty_like(x_TD).index_copy_(0, rows.changed_S, changed_SD)
    return y_TD.index_copy_(0, rows.unchanged, base(rows.unchanged)) if len(rows.unchanged) else y_TD


def _mlp(mlp: GatedMLP, changes: MLPAdapters, x_SD: Tensor, rows: AdapterRows) -> Tensor:
    """The MLP for rows that are sorted by adapter."""

    def add(y: Tensor, weights: LoRAWeights | None, x: Tensor) -> Tensor:
        return y if weights is None else y.add_(weights(x, rows.counts_N))

    inner_SF = mlp.activation(add(mlp.gate_up(x_SD), changes.gate_up, x_SD))
    return add(mlp.down(inner_SF), changes.down, inner_SF)


def _experts(experts: Experts, changes: MLPAdapters, x_SD: Tensor, routing: Routing, rows: AdapterRows) -> Tensor:
    """The unweighted outputs of all chosen experts: [S, K, D]."""
    experts_P, order_P = routing.dispatch()
    tokens_P, num_experts = order_P // routing.experts_TK.shape[1], experts.num_experts
    counts_E = torch.bincount(experts_P, minlength=num_experts)
    groups_P, by_group_P = (rows.adapters_S[tokens_P] * num_experts + experts_P).sort(stable=True)
    counts_NE = torch.bincount(groups_P, minlength=len(rows.counts_N) * num_experts)

    def add(y: Tensor, weights: LoRAWeights | None, x: Tensor) -> Tensor:
        if weights is None:
            return y
        return y.index_add_(0, by_group_P, weights(x.index_select(0, by_group_P), counts_NE))

    x_PD = x_SD.index_select(0, tokens_P)
    inner_PF = experts.activation(add(experts.gate_up(x_PD, counts_E), changes.gate_up, x_PD))
    return undispatched(add(experts.down(inner_PF, counts_E), changes.down, inner_PF), order_P, routing)
