"""Matrices with LoRA adapters: y = x W^T + x A^T B^T, where each row may have an A and B of its own, or none.

The rows of a step are sorted by adapter and multiplied like rows that are sorted by expert, so each row has the same
bits whatever the other rows are. Rows without an adapter get exactly what the matrix without adapters gives.

Shapes: T rows, N adapters of one layer, S rows with one of them, R rank, I inputs, O outputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from model import kernels
from model.kernels.matmul.codes import Codes
from model.layers.frozen_linear import FrozenLinear

NO_ADAPTER = -1


@dataclass(frozen=True, slots=True, eq=False)
class AdapterRows:
    """The rows that some of a layer's adapters change, sorted by adapter, and the rows that none of them changes."""

    changed_S: Tensor
    adapters_S: Tensor  # index within the layer's adapters, ascending
    counts_N: Tensor
    unchanged: Tensor


class ActiveAdapters:
    """The adapters of a network, and which of them each token of the current step has.

    All layers with adapters share this object; `CausalLM.forward` selects the adapters of its batch.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._adapters_T: Tensor | None = None
        self._rows: dict[tuple[int, ...], AdapterRows | None] = {}

    def select(self, adapters_T: Tensor | None) -> None:
        """`adapters_T`: index into `names` or NO_ADAPTER, int64; None: no token has an adapter."""
        self._adapters_T = adapters_T
        self._rows.clear()

    def rows(self, adapters: tuple[int, ...]) -> AdapterRows | None:
        """The rows of a layer with these adapters, computed once per step. None: they change no row."""
        if self._adapters_T is None:
            return None
        if adapters not in self._rows:
            self._rows[adapters] = self._sorted_rows(adapters, self._adapters_T)
        return self._rows[adapters]

    def _sorted_rows(self, adapters: tuple[int, ...], adapters_T: Tensor) -> AdapterRows | None:
        place = torch.full((len(self.names) + 1,), NO_ADAPTER)  # the last entry is that of NO_ADAPTER
        place[list(adapters)] = torch.arange(len(adapters))
        sorted_T, order_T = place[adapters_T].sort(stable=True)
        others = int((sorted_T == NO_ADAPTER).sum())
        if others == len(sorted_T):
            return None
        adapters_S = sorted_T[others:]
        counts_N = torch.bincount(adapters_S, minlength=len(adapters))
        return AdapterRows(order_T[others:], adapters_S, counts_N, order_T[:others])


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """The change of one matrix [O, I] is B A, the scaling included; of one per expert [E, O, I], it is B[e] A[e]."""

    A: Tensor  # [R, I] or [E, R, I]
    B: Tensor  # [O, R] or [E, O, R]


class LoRAWeights:
    """The packed low-rank matrices of the adapters of one layer; ranks are padded to the largest with zeros."""

    def __init__(self, changes: Sequence[LowRank], dtype: torch.dtype) -> None:
        """With experts, expert e of adapter n has the index n * E + e."""
        dtype = torch.float32 if dtype == torch.float16 else dtype  # which is not packed
        A = _stacked([change.A.to(dtype) for change in changes])
        B = _stacked([change.B.mT.to(dtype) for change in changes]).mT
        self._A, self._B = (kernels.pack_weights(Codes(matrices.flatten(0, -3).contiguous())) for matrices in (A, B))

    @property
    def nbytes(self) -> int:
        """Memory that they take."""
        return self._A.nbytes + self._B.nbytes

    def __call__(self, x_SI: Tensor, counts: Tensor) -> Tensor:
        """x A^T B^T for rows that are sorted by adapter (and expert), `counts` for each: [S, O]."""
        return kernels.grouped_linear(kernels.grouped_linear(x_SI, counts, self._A), counts, self._B)


def _stacked(matrices: list[Tensor]) -> Tensor:
    """[N, R, I] or [N, E, R, I] of matrices with different R."""
    if matrices[0].dim() == 2:
        return pad_sequence(matrices, batch_first=True)
    return pad_sequence([matrix.transpose(0, 1) for matrix in matrices], batch_first=True).transpose(1, 2)


class LoRALinear(nn.Module):
    """A frozen linear layer that adapters change. `adapters` are the indices of those that do."""

    def __init__(
        self, base: FrozenLinear, adapters: tuple[int, ...], weights: LoRAWeights, active: ActiveAdapters
    ) -> None:
        super().__init__()
        self.base, self._adapters, self._weights, self._active = base, adapters, weights, active

    def forward(self, x_TI: Tensor) -> Tensor:
        return self._changed(x_TI, self.base(x_TI))

    def in_float32(self, x_TI: Tensor) -> Tensor:
        """The same with float32 outputs."""
        return self._changed(x_TI, self.base.in_float32(x_TI))

    def _changed(self, x_TI: Tensor, y_TO: Tensor) -> Tensor:
        rows = self._active.rows(self._adapters)
        if rows is None:
            return y_TO
        x_SI = x_TI.index_select(0, rows.changed_S).to(y_TO.dtype)  # a router's products are float32
        return y_TO.index_add_(0, rows.changed_S, self._weights(x_SI, rows.counts_N))
