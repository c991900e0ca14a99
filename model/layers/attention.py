"""Grouped-query attention.

Shapes: T tokens, D hidden width, H query heads, G key/value heads, K head width.
"""

import torch
from torch import Tensor, nn

from model import kernels
from model.batch import TokenBatch
from model.cache import CacheSpec, KVSpec
from model.config import AttentionConfig
from model.kernels.types import QKNorms
from model.layers.linear import Linear
from model.layers.norm import RMSNorm
from model.rotary import Rotary


class Attention(nn.Module):
    """Causal attention. It caches a key and a value per token."""

    def __init__(self, config: AttentionConfig, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        query_width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        # queries, output gates, keys and values in one matrix
        self.widths = [query_width, query_width if config.output_gate else 0, kv_width, kv_width]
        self.in_proj = Linear(hidden_size, sum(self.widths), config.input_bias)
        self.out_proj = Linear(query_width, hidden_size, config.output_bias)
        self.q_norm = _norm(config, config.num_heads)
        self.k_norm = _norm(config, config.num_kv_heads)
        self.rotary = Rotary(config.rotary) if config.rotary else None
        self.scale = config.head_dim**-0.5 if config.scale is None else config.scale
        self.sinks_H = nn.Parameter(torch.zeros(config.num_heads)) if config.sinks else None

    def cache_spec(self) -> CacheSpec:
        return KVSpec(self.config.num_kv_heads, self.config.head_dim)

    def forward(self, x_TD: Tensor, batch: TokenBatch, layer: int) -> Tensor:
        q, gate, k, v = self.in_proj(x_TD).split(self.widths, dim=-1)
        q_THK, k_TGK = self._positioned(q, k, batch)
        v_TGK = v.unflatten(-1, (-1, self.config.head_dim))
        window, sinks_H = self.config.window, self.sinks_H
        out = batch.attend(layer, q_THK, k_TGK, v_TGK, scale=self.scale, window=window, sinks_H=sinks_H).flatten(1)
        projected: Tensor = self.out_proj(kernels.sigmoid_mul(out, gate) if self.config.output_gate else out)
        return projected

    def _positioned(self, q: Tensor, k: Tensor, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Queries and keys, normalized and with their positions: [T, heads * K] -> [T, heads, K]."""
        norm = self.config.qk_norm
        if norm is None or self.q_norm is None or self.k_norm is None:
            return self._rotated(q, k, batch)
        if not norm.per_head:
            return self._rotated(self.q_norm(q), self.k_norm(k), batch)
        if norm.after_rotary or self.rotary is None:
            q_THK, k_TGK = self._rotated(q, k, batch)
            return self.q_norm(q_THK), self.k_norm(k_TGK)
        return self._rotated(
            q, k, batch, QKNorms(self.q_norm.weight, self.k_norm.weight, norm.norm.eps, norm.norm.offset)
        )

    def _rotated(self, q: Tensor, k: Tensor, batch: TokenBatch, norms: QKNorms | None = None) -> tuple[Tensor, Tensor]:
        """The heads of queries and keys with their positions, and before that with `norms`."""
        q_THK, k_TGK = (x.unflatten(-1, (-1, self.config.head_dim)) for x in (q, k))
        if self.rotary is None:
            return q_THK, k_TGK
        return kernels.qk_norm_rotate(q_THK, k_TGK, *batch.rotary_tables(self.rotary), norms)


def _norm(config: AttentionConfig, heads: int) -> RMSNorm | None:
    if config.qk_norm is None:
        return None
    return RMSNorm(config.head_dim if config.qk_norm.per_head else heads * config.head_dim, config.qk_norm.norm)
