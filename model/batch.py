"""The tokens of one step, and how layers look beyond a single token: an argument of the forward pass, never a global.

Layers are written once, over flat tokens. Whatever joins tokens of a sequence (convolution, recurrence, attention) they
ask of the batch: `ForwardBatch` serves ragged sequences from the cache, `RectangularBatch` trains on whole rows.

Shapes: T tokens of all sequences, S sequences, B blocks a sequence, B rows and L positions in training, H heads,
G key/value heads or groups, C channels, J convolution taps, K key width, V value width, P head width and N state width
of a state-space head.
"""

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from model import kernels
from model.cache import CacheStorage
from model.config import RotaryConfig
from model.kernels.reference import GatedDelta, Paging
from model.rotary import Rotary

RotaryTables = dict[RotaryConfig, tuple[Tensor, Tensor]]


class TokenBatch(Protocol):
    """What a layer may ask about the tokens it is given."""

    @property
    def token_ids_T(self) -> Tensor: ...

    @property
    def positions_T(self) -> Tensor: ...

    def rotary_tables(self, rotary: Rotary) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the tokens' positions, made once for all layers that turn alike: [T, W] each."""
        ...

    def short_conv(
        self, layer: int, x_TC: Tensor, weight_CJ: Tensor, bias_C: Tensor | None = None, *, silu: bool = True
    ) -> Tensor:
        """Causal depthwise convolution over each sequence, then (if so asked) SiLU."""
        ...

    def gated_delta(self, layer: int, x_TP: Tensor, weights: GatedDelta) -> Tensor:
        """A Gated DeltaNet over each sequence, between its two products. Returns [T, H * V]."""
        ...

    def mamba_scan(self, layer: int, x_THP: Tensor, dt_TH: Tensor, A_H: Tensor, B_TGN: Tensor, C_TGN: Tensor) -> Tensor:
        """The state-space recurrence of Mamba-2 over each sequence. Returns y_THP."""
        ...

    def attend(
        self,
        layer: int,
        q_THK: Tensor,
        k_TGK: Tensor,
        v_TGV: Tensor,
        *,
        scale: float,
        window: int | None = None,
        sinks_H: Tensor | None = None,
    ) -> Tensor:
        """Causal attention over each sequence. Returns o_THV.

        `window`: how many tokens are seen, the token itself included; `sinks_H`: scores that join only the softmax's
        sum.
        """
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
    tables: RotaryTables = field(default_factory=dict)

    def rotary_tables(self, rotary: Rotary) -> tuple[Tensor, Tensor]:
        return _tables_once(self.tables, rotary, self.positions_T)

    def short_conv(
        self, layer: int, x_TC: Tensor, weight_CJ: Tensor, bias_C: Tensor | None = None, *, silu: bool = True
    ) -> Tensor:
        state = self.cache.state(layer, "conv")
        return kernels.short_conv(x_TC, weight_CJ, bias_C, state, self.state_rows_S, self.query_starts_S1, silu)

    def gated_delta(self, layer: int, x_TP: Tensor, weights: GatedDelta) -> Tensor:
        states = self.cache.state(layer, "conv"), self.cache.state(layer, "delta")
        return kernels.gated_delta(x_TP, weights, *states, self.state_rows_S, self.query_starts_S1)

    def mamba_scan(self, layer: int, x_THP: Tensor, dt_TH: Tensor, A_H: Tensor, B_TGN: Tensor, C_TGN: Tensor) -> Tensor:
        state = self.cache.state(layer, "scan")
        return kernels.mamba_scan(x_THP, dt_TH, A_H, B_TGN, C_TGN, state, self.state_rows_S, self.query_starts_S1)

    def attend(
        self,
        layer: int,
        q_THK: Tensor,
        k_TGK: Tensor,
        v_TGV: Tensor,
        *,
        scale: float,
        window: int | None = None,
        sinks_H: Tensor | None = None,
    ) -> Tensor:
        keys, values = self.cache.keys_NPGD(layer), self.cache.values_NPGV(layer)
        paging = Paging(self.positions_T, self.query_starts_S1, self.block_table_SB)
        kernels.store_kv(k_TGK, v_TGV if self.cache.stores_values(layer) else None, keys, values, paging)
        return kernels.paged_attention(q_THK, keys, values, paging, scale, window, sinks_H)


@dataclass(frozen=True, slots=True, eq=False)
class RectangularBatch:
    """B rows of L tokens for training: differentiable, nothing cached, every row from position 0.

    Rows may end in padding: it comes after all real tokens, and causality keeps it from changing them.
    """

    token_ids_BL: Tensor
    tables: RotaryTables = field(default_factory=dict)

    def rotary_tables(self, rotary: Rotary) -> tuple[Tensor, Tensor]:
        return _tables_once(self.tables, rotary, self.positions_T)

    @property
    def token_ids_T(self) -> Tensor:
        return self.token_ids_BL.reshape(-1)

    @property
    def positions_T(self) -> Tensor:
        rows, length = self.token_ids_BL.shape
        return torch.arange(length, device=self.token_ids_BL.device).repeat(rows)

    def short_conv(
        self, layer: int, x_TC: Tensor, weight_CJ: Tensor, bias_C: Tensor | None = None, *, silu: bool = True
    ) -> Tensor:
        return kernels.short_conv_train(self._rows(x_TC), weight_CJ, bias_C, silu).reshape(x_TC.shape)

    def gated_delta(self, layer: int, x_TP: Tensor, weights: GatedDelta) -> Tensor:
        mixed_TC, z, b_TH, a_TH = weights.split(x_TP)
        q_THK, k_THK, v_THV = weights.heads(self.short_conv(layer, mixed_TC, weights.conv_CJ))
        log_decay_TH, beta_TH = kernels.delta_gates(a_TH, b_TH, weights.A_log_H, weights.dt_bias_H)
        groups = v_THV.shape[1] // q_THK.shape[1]
        if groups > 1:
            q_THK, k_THK = q_THK.repeat_interleave(groups, dim=1), k_THK.repeat_interleave(groups, dim=1)
        rows = [self._rows(x) for x in (q_THK, k_THK, v_THV, log_decay_TH, beta_TH)]
        out_THV = kernels.delta_rule_train(*rows).reshape(v_THV.shape)
        return kernels.gated_rms_norm(out_THV, z.reshape(v_THV.shape), weights.norm_V, weights.eps).flatten(1)

    def mamba_scan(self, layer: int, x_THP: Tensor, dt_TH: Tensor, A_H: Tensor, B_TGN: Tensor, C_TGN: Tensor) -> Tensor:
        x_BLHP, dt_BLH, B_BLGN, C_BLGN = (self._rows(x) for x in (x_THP, dt_TH, B_TGN, C_TGN))
        return kernels.mamba_scan_train(x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN).reshape(x_THP.shape)

    def attend(
        self,
        layer: int,
        q_THK: Tensor,
        k_TGK: Tensor,
        v_TGV: Tensor,
        *,
        scale: float,
        window: int | None = None,
        sinks_H: Tensor | None = None,
    ) -> Tensor:
        q, k, v = (self._rows(x).transpose(1, 2) for x in (q_THK, k_TGK, v_TGV))
        if sinks_H is not None or not q.is_cuda:
            out = _attention_by_products(q, k, v, self._visible(window), scale, sinks_H)
        else:
            mask = None if window is None else self._visible(window)
            out = functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True
            )
        return out.transpose(1, 2).reshape(*q_THK.shape[:2], v_TGV.shape[-1])

    def _visible(self, window: int | None) -> Tensor:
        """Which position sees which: [L, L], true from itself back to the window's end."""
        position = torch.arange(self.token_ids_BL.shape[1], device=self.token_ids_BL.device)
        distance = position[:, None] - position
        return (distance >= 0) & (distance < (window or len(position)))

    def _rows(self, x: Tensor) -> Tensor:
        return x.reshape(*self.token_ids_BL.shape, *x.shape[1:])


def _tables_once(tables: RotaryTables, rotary: Rotary, positions_T: Tensor) -> tuple[Tensor, Tensor]:
    found = tables.get(rotary.config)
    if found is None:
        found = tables[rotary.config] = rotary.tables(positions_T)
    return found


def _attention_by_products(
    q_BHLK: Tensor, k_BGLK: Tensor, v_BGLV: Tensor, visible_LL: Tensor, scale: float, sinks_H: Tensor | None
) -> Tensor:
    """Attention with its scores written out, for the short rows of training on a CPU, and for sinks."""
    groups = q_BHLK.shape[1] // k_BGLK.shape[1]
    k, v = (x.repeat_interleave(groups, dim=1).flatten(0, 1) for x in (k_BGLK, v_BGLV))
    hidden = torch.zeros_like(visible_LL, dtype=torch.float32).masked_fill(~visible_LL, float("-inf"))
    scores = torch.bmm((q_BHLK * scale).flatten(0, 1), k.transpose(1, 2)).float() + hidden
    if sinks_H is not None:  # one more key, of value zero, whose score is the sink
        sinks = sinks_H.float().repeat(len(q_BHLK))[:, None, None].expand(*scores.shape[:2], 1)
        scores = torch.cat([scores, sinks], dim=-1)
    shares = scores.softmax(-1)[..., : len(visible_LL)]
    return torch.bmm(shares.to(v.dtype), v).unflatten(0, q_BHLK.shape[:2])
