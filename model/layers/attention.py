"""Grouped-query attention with query/key norms, partial rotary positions and an output gate.

Shapes: T tokens, D hidden width, H query heads, G key/value heads, K head width.
"""

from torch import Tensor, nn

from model import kernels
from model.batch import TokenBatch
from model.cache import CacheSpec, KVSpec
from model.config import AttentionConfig
from model.layers.linear import Linear
from model.layers.norm import RMSNorm
from model.layers.rotary import Rotary, rotate


class Attention(nn.Module):
    """A mixer that looks back at every earlier token. It remembers a key and a value per token."""

    def __init__(self, config: AttentionConfig, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.config = config
        self.query_width = config.num_heads * config.head_dim
        self.kv_width = config.num_kv_heads * config.head_dim
        # queries, output gates, keys, values: one product
        self.in_proj = Linear(hidden_size, 2 * self.query_width + 2 * self.kv_width)
        self.out_proj = Linear(self.query_width, hidden_size)
        self.q_norm = RMSNorm(config.head_dim, eps)
        self.k_norm = RMSNorm(config.head_dim, eps)
        self.rotary = Rotary(config.rotary_dim, config.rope_theta)

    def cache_spec(self) -> CacheSpec:
        return KVSpec(self.config.num_kv_heads, self.config.head_dim)

    def forward(self, x_TD: Tensor, batch: TokenBatch, layer: int) -> Tensor:
        widths = [self.query_width, self.query_width, self.kv_width, self.kv_width]
        q, gate, k, v = self.in_proj(x_TD).split(widths, dim=-1)
        heads = (-1, self.config.head_dim)
        tables = self.rotary.tables(batch.positions_T)
        q_THK = rotate(self.q_norm(q.unflatten(-1, heads)), tables)
        k_TGK = rotate(self.k_norm(k.unflatten(-1, heads)), tables)
        out_THK = batch.attend(layer, q_THK, k_TGK, v.unflatten(-1, heads))
        projected: Tensor = self.out_proj(kernels.sigmoid_mul(out_THK.flatten(1), gate))
        return projected
