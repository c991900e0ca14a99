"""Grouped-query attention.

Shapes: T tokens, D hidden width, H query heads, G key/value heads, K head width.
"""

import torch
from torch import Tensor, nn

from model import kernels
from model.batch import TokenBatch
from model.cache import CacheSpec, KVSpec
from model.config import AttentionConfig
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
        q_THK, k_TGK = self._heads(q, self.q_norm), self._heads(k, self.k_norm)
        if self.rotary is not None:
            tables = batch.rotary_tables(self.rotary)
            q_THK, k_TGK = kernels.rotate(q_THK, *tables), kernels.rotate(k_TGK, *tables)
        v_TGK = self._heads(v, None)
        window, sinks_H = self.config.window, self.sinks_H
        out = batch.attend(layer, q_THK, k_TGK, v_TGK, scale=self.scale, window=window, sinks_H=sinks_H).flatten(1)
        projected: Tensor = self.out_proj(kernels.sigmoid_mul(out, gate) if self.config.output_gate else out)
        return projected

    def _heads(self, x: Tensor, norm: RMSNorm | None) -> Tensor:
        """[T, heads * K] -> [T, heads, K], normalized per head or over all heads."""
        heads = (-1, self.config.head_dim)
        if norm is None:
            return x.unflatten(-1, heads)
        if self.config.qk_norm_per_head:
            normed: Tensor = norm(x.unflatten(-1, heads))
            return normed
        return norm(x).unflatten(-1, heads)


def _norm(config: AttentionConfig, heads: int) -> RMSNorm | None:
    if config.qk_norm is None:
        return None
    return RMSNorm(config.head_dim if config.qk_norm_per_head else heads * config.head_dim, config.qk_norm)
