"""The tokens of one step, and every operation that mixes tokens of a sequence.

Layers are written once, over a flat list of tokens. For whatever combines tokens of a sequence (convolution,
recurrence, attention) they call the batch: `ForwardBatch` serves ragged sequences on top of the cache, `PaddedBatch`
trains on rows of equal length. A batch is an argument of the forward pass, never a global.

Shapes: T tokens of all sequences, R of them whose outputs are wanted, S sequences, B blocks per sequence
(ForwardBatch) or rows (PaddedBatch), L positions of a row, H heads, G key/value heads or groups, C channels, J
convolution taps, K key width, V value width, P head width and N state width of a state-space head.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from model import kernels
from model.cache import CacheStorage
from model.config import RotaryConfig
from model.kernels.types import GatedDelta, Paging, SelectiveScan
from model.rotary import Rotary

RotaryTables = dict[RotaryConfig, tuple[Tensor, Tensor]]


class TokenBatch(Protocol):
    """What a layer may ask about its tokens. `layer` is the layer's index in the network."""

    @property
    def token_ids_T(self) -> Tensor: ...

    @property
    def positions_T(self) -> Tensor: ...

    @property
    def adapters_T(self) -> Tensor | None:
        """The LoRA adapter of each token: its index in `CausalLM.adapters`, or -1 for none. None: no token has one."""
        ...

    @property
    def output_rows_R(self) -> Tensor | None:
        """The tokens for which the network is to give outputs, by index, ascending. None: all of them."""
        ...

    def experts_per_token(self, layer: int) -> int | Tensor | None:
        """The number of experts that this batch asks for instead of the router's `k`.

        One number for all tokens, or int64 [T] with 0 for tokens that keep the router's `k`. None: all keep it.
        """
        ...

    def masked_experts(self, layer: int) -> Tensor | None:
        """The experts that a token must not go to: bool [T, E]. None: there are none."""
        ...

    def rotary_tables(self, rotary: Rotary) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the tokens' positions, [T, W] each, computed once per rotary config and batch."""
        ...

    def short_conv(
        self, layer: int, x_TC: Tensor, weight_CJ: Tensor, bias_C: Tensor | None = None, *, silu: bool = True
    ) -> Tensor:
        """Causal depthwise convolution over each sequence, followed by SiLU if `silu`."""
        ...

    def gated_delta(self, layer: int, x_TP: Tensor, weights: GatedDelta) -> Tensor:
        """A Gated DeltaNet over each sequence, without its input and output projections. Returns [T, H * V]."""
        ...

    def mamba_scan(self, layer: int, x_THP: Tensor, dt_TH: Tensor, A_H: Tensor, B_TGN: Tensor, C_TGN: Tensor) -> Tensor:
        """The state-space recurrence of Mamba-2 over each sequence. Returns y_THP."""
        ...

    def selective_scan(
        self,
        layer: int,
        x_TC: Tensor,
        dt_TC: Tensor,
        B_TN: Tensor,
        C_TN: Tensor,
        gate_TC: Tensor,
        weights: SelectiveScan,
    ) -> Tensor:
        """The state-space recurrence of Mamba-1 over each sequence, and its output gate. Returns [T, C]."""
        ...

    def kimi_delta(
        self,
        layer: int,
        qkv_THK: tuple[Tensor, Tensor, Tensor],
        a_THK: Tensor,
        b_TH: Tensor,
        A_log_H: Tensor,
        dt_bias_HK: Tensor,
    ) -> Tensor:
        """Kimi Delta Attention over each sequence; a and b are decays and write strengths before their functions."""
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

        `window`: how many tokens each token attends to, itself included. `sinks_H`: a logit per head that takes part
        in the denominator of the softmax only.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ForwardBatch:
    """One step of serving: the new tokens of S sequences, flat and unpadded, on top of what the cache holds.

    Sequence s has the tokens query_starts_S1[s] .. query_starts_S1[s + 1]. Token t is at position `positions_T[t]` of
    its sequence; the tokens before it are in the cache, as keys and values in the blocks `block_table_SB[s]` and as
    recurrent state in row `state_rows_S[s]`, which the step updates in place. The initial state is a row of zeros.
    """

    token_ids_T: Tensor  # int64
    positions_T: Tensor  # int64
    query_starts_S1: Tensor  # int32, ascending from 0 to T
    block_table_SB: Tensor  # int32; entries after a sequence's last block are not read
    state_rows_S: Tensor  # int32
    cache: CacheStorage
    num_experts_per_token: int | Tensor | None = None  # in every MoE layer; see `TokenBatch.experts_per_token`
    adapters_T: Tensor | None = None  # int64; see `TokenBatch.adapters_T`
    output_rows_R: Tensor | None = None  # int64; see `TokenBatch.output_rows_R`
    tables: RotaryTables = field(default_factory=dict)
    masks: Mapping[int, Tensor] = field(default_factory=dict)  # by layer; see `TokenBatch.masked_experts`
    experts_by_layer: Mapping[int, Tensor] = field(default_factory=dict)  # in place of `num_experts_per_token`

    def experts_per_token(self, layer: int) -> int | Tensor | None:
        return self.experts_by_layer.get(layer, self.num_experts_per_token)

    def masked_experts(self, layer: int) -> Tensor | None:
        return self.masks.get(layer)

    def rotary_tables(self, rotary: Rotary) -> tuple[Tensor, Tensor]:
        return _cached_tables(self.tables, rotary, self.positions_T)

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

    def selective_scan(
        self,
        layer: int,
        x_TC: Tensor,
        dt_TC: Tensor,
        B_TN: Tensor,
        C_TN: Tensor,
        gate_TC: Tensor,
        weights: SelectiveScan,
    ) -> Tensor:
        sequences = (self.cache.state(layer, "scan"), self.state_rows_S, self.query_starts_S1)
        return kernels.selective_scan(x_TC, dt_TC, B_TN, C_TN, gate_TC, weights, *sequences)

    def kimi_delta(
        self,
        layer: int,
        qkv_THK: tuple[Tensor, Tensor, Tensor],
        a_THK: Tensor,
        b_TH: Tensor,
        A_log_H: Tensor,
        dt_bias_HK: Tensor,
    ) -> Tensor:
        sequences = (self.cache.state(layer, "delta"), self.state_rows_S, self.query_starts_S1)
        return kernels.kimi_delta(*qkv_THK, a_THK, b_TH, A_log_H, dt_bias_HK, *sequences)

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
class PaddedBatch:
    """B rows of L tokens for training: differentiable, nothing is cached, every row starts at position 0.

    Padding must be at the end of a row: since every layer is causal, it cannot change the tokens before it.
    """

    token_ids_BL: Tensor
    num_experts_per_token: Mapping[int, int] = field(default_factory=dict)  # by layer; other layers use the router's k
    tables: RotaryTables = field(default_factory=dict)

    @property
    def adapters_T(self) -> None:
        """Adapters are served, not trained."""
        return None

    @property
    def output_rows_R(self) -> None:
        """Training wants the outputs of all tokens."""
        return None

    def experts_per_token(self, layer: int) -> int | Tensor | None:
        return self.num_experts_per_token.get(layer)

    def masked_experts(self, layer: int) -> Tensor | None:
        return None

    def rotary_tables(self, rotary: Rotary) -> tuple[Tensor, Tensor]:
        return _cached_tables(self.tables, rotary, self.positions_T)

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
        return kernels.short_conv_train(self._rows(x_TC), weight_CJ, bias_C, silu).flatten(0, 1)

    def gated_delta(self, layer: int, x_TP: Tensor, weights: GatedDelta) -> Tensor:
        return kernels.gated_delta_train(self._rows(x_TP), weights).flatten(0, 1)

    def mamba_scan(self, layer: int, x_THP: Tensor, dt_TH: Tensor, A_H: Tensor, B_TGN: Tensor, C_TGN: Tensor) -> Tensor:
        x_BLHP, dt_BLH, B_BLGN, C_BLGN = (self._rows(x) for x in (x_THP, dt_TH, B_TGN, C_TGN))
        return kernels.mamba_scan_train(x_BLHP, dt_BLH, A_H, B_BLGN, C_BLGN).reshape(x_THP.shape)

    def selective_scan(
        self,
        layer: int,
        x_TC: Tensor,
        dt_TC: Tensor,
        B_TN: Tensor,
        C_TN: Tensor,
        gate_TC: Tensor,
        weights: SelectiveScan,
    ) -> Tensor:
        x, dt, B, C, gate = (self._rows(x) for x in (x_TC, dt_TC, B_TN, C_TN, gate_TC))
        return kernels.selective_scan_train(x, dt, B, C, gate, weights).reshape(x_TC.shape)

    def kimi_delta(
        self,
        layer: int,
        qkv_THK: tuple[Tensor, Tensor, Tensor],
        a_THK: Tensor,
        b_TH: Tensor,
        A_log_H: Tensor,
        dt_bias_HK: Tensor,
    ) -> Tensor:
        q, k, v, a, b = (self._rows(x) for x in (*qkv_THK, a_THK, b_TH))
        return kernels.kimi_delta_train(q, k, v, a, b, A_log_H, dt_bias_HK).reshape(qkv_THK[2].shape)

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
            out = _explicit_attention(q, k, v, self._visible(window), scale, sinks_H)
        else:
            out = _fused_attention(q, k, v, self._visible(window), scale)
        return out.transpose(1, 2).reshape(*q_THK.shape[:2], v_TGV.shape[-1])

    def _visible(self, window: int | None) -> Tensor:
        """The attention mask [L, L], or [B, 1, L, L]: true where the row's position attends to the column's."""
        position = torch.arange(self.token_ids_BL.shape[1], device=self.token_ids_BL.device)
        distance_LL = position[:, None] - position
        return (distance_LL >= 0) & (distance_LL < (window or len(position)))

    def _rows(self, x: Tensor) -> Tensor:
        return x.reshape(*self.token_ids_BL.shape, *x.shape[1:])


def _cached_tables(tables: RotaryTables, rotary: Rotary, positions_T: Tensor) -> tuple[Tensor, Tensor]:
    found = tables.get(rotary.config)
    if found is None:
        found = tables[rotary.config] = rotary.tables(positions_T)
    return found


def _explicit_attention(
    q_BHLK: Tensor, k_BGLK: Tensor, v_BGLV: Tensor, visible: Tensor, scale: float, sinks_H: Tensor | None
) -> Tensor:
    """Attention that materializes its scores: faster for short rows on a CPU, and it supports sinks."""
    group_size = q_BHLK.shape[1] // k_BGLK.shape[1]
    k, v = (x.repeat_interleave(group_size, dim=1).flatten(0, 1) for x in (k_BGLK, v_BGLV))
    hidden = torch.zeros_like(visible, dtype=torch.float32).masked_fill(~visible, float("-inf"))
    scores = torch.bmm((q_BHLK * scale).flatten(0, 1), k.transpose(1, 2)).float().unflatten(0, q_BHLK.shape[:2])
    scores = (scores + hidden).flatten(0, 1)
    if sinks_H is not None:  # the sink is one more key with a value of zero
        sinks = sinks_H.float().repeat(len(q_BHLK))[:, None, None].expand(*scores.shape[:2], 1)
        scores = torch.cat([scores, sinks], dim=-1)
    probs = scores.softmax(-1)[..., : visible.shape[-1]]
    return torch.bmm(probs.to(v.dtype), v).unflatten(0, q_BHLK.shape[:2])


def _fused_attention(q_BHLK: Tensor, k_BGLK: Tensor, v_BGLV: Tensor, visible: Tensor, scale: float) -> Tensor:
    """Attention in PyTorch's kernels for GPUs; those that take a mask want as many key heads as query heads."""
    group_size = q_BHLK.shape[1] // k_BGLK.shape[1]
    k, v = (x.repeat_interleave(group_size, dim=1) for x in (k_BGLK, v_BGLV))
    return functional.scaled_dot_product_attention(q_BHLK, k, v, attn_mask=visible, scale=scale)
