"""The tokens of one step, and how layers look beyond a single token: an argument of the forward pass, never a global.

Layers are written once, over flat tokens. Whatever joins tokens of a sequence (convolution, recurrence, attention) they
ask of the batch: `ForwardBatch` serves ragged sequences from the cache, `RectangularBatch` trains on whole rows.

Shapes: T tokens of all sequences, S sequences, B blocks a sequence, H query heads, G key/value heads, C channels,
K key width, V value width, D head width.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from model import kernels
from model.cache import CacheStorage


class TokenBatch(Protocol):
    """What a layer may ask about the tokens it is given."""

    @property
    def token_ids_T(self) -> Tensor: ...

    @property
    def positions_T(self) -> Tensor: ...

    def short_conv(self, layer: int, x_TC: Tensor, weight_CW: Tensor) -> Tensor:
        """Causal depthwise convolution over each sequence, then SiLU."""
        ...

    def delta_rule(
        self, layer: int, q_THK: Tensor, k_THK: Tensor, v_THV: Tensor, log_decay_TH: Tensor, beta_TH: Tensor
    ) -> Tensor:
        """The gated delta rule over each sequence; queries and keys come unnormalized. Returns o_THV."""
        ...

    def attend(self, layer: int, q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor) -> Tensor:
        """Causal attention over each sequence. Returns o_THD."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ForwardBatch:
    """One step of serving: the new tokens of S sequences, flat and unpadded, on top of what the cache holds.

    Sequence s has the tokens query_starts_S1[s] .. query_starts_S1[s + 1]; token t lies at `positions_T[t]` of its
    sequence, and everything before is in the cache: keys and values in the blocks of `block_table_SB[s]`, recurrent
    state in row `state_rows_S[s]`, which the step advances in place. A row of zeros is the state before any token.
    """

    token_ids_T: Tensor  # int64
    positions_T: Tensor  # int64
    query_starts_S1: Tensor  # int32, ascending from 0 to T
    block_table_SB: Tensor  # int32, padded with anything
    state_rows_S: Tensor  # int32
    cache: CacheStorage

    def short_conv(self, layer: int, x_TC: Tensor, weight_CW: Tensor) -> Tensor:
        state = self.cache.state(layer, "conv")
        return kernels.short_conv(x_TC, weight_CW, state, self.state_rows_S, self.query_starts_S1)

    def delta_rule(
        self, layer: int, q_THK: Tensor, k_THK: Tensor, v_THV: Tensor, log_decay_TH: Tensor, beta_TH: Tensor
    ) -> Tensor:
        state = self.cache.state(layer, "delta")
        return kernels.delta_rule(
            q_THK, k_THK, v_THV, log_decay_TH, beta_TH, state, self.state_rows_S, self.query_starts_S1
        )

    def attend(self, layer: int, q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor) -> Tensor:
        keys, values = self.cache.keys_NPGD(layer), self.cache.values_NPGD(layer)
        kernels.store_kv(k_TGD, v_TGD, keys, values, self.positions_T, self.query_starts_S1, self.block_table_SB)
        return kernels.paged_attention(q_THD, keys, values, self.positions_T, self.query_starts_S1, self.block_table_SB)


@dataclass(frozen=True, slots=True, eq=False)
class RectangularBatch:
    """B rows of L tokens for training: differentiable, nothing cached, every row from position 0.

    Rows may end in padding: it comes after all real tokens, and causality keeps it from changing them.
    """

    token_ids_BL: Tensor

    @property
    def token_ids_T(self) -> Tensor:
        return self.token_ids_BL.reshape(-1)

    @property
    def positions_T(self) -> Tensor:
        rows, length = self.token_ids_BL.shape
        return torch.arange(length, device=self.token_ids_BL.device).repeat(rows)

    def short_conv(self, layer: int, x_TC: Tensor, weight_CW: Tensor) -> Tensor:
        return kernels.short_conv_train(self._rows(x_TC), weight_CW).reshape(x_TC.shape)

    def delta_rule(
        self, layer: int, q_THK: Tensor, k_THK: Tensor, v_THV: Tensor, log_decay_TH: Tensor, beta_TH: Tensor
    ) -> Tensor:
        groups = v_THV.shape[1] // q_THK.shape[1]
        if groups > 1:
            q_THK, k_THK = q_THK.repeat_interleave(groups, dim=1), k_THK.repeat_interleave(groups, dim=1)
        rows = [self._rows(x) for x in (q_THK, k_THK, v_THV, log_decay_TH, beta_TH)]
        return kernels.delta_rule_train(*rows).reshape(v_THV.shape)

    def attend(self, layer: int, q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor) -> Tensor:
        q, k, v = (self._rows(x).transpose(1, 2) for x in (q_THD, k_TGD, v_TGD))
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return out.transpose(1, 2).reshape(q_THD.shape)

    def _rows(self, x: Tensor) -> Tensor:
        return x.reshape(*self.token_ids_BL.shape, *x.shape[1:])
