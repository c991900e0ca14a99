"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1), in its absorbed form.

The key and the value of head h are products of one small vector c per token: k_h = U_h c and v_h = V_h c. A further
part of the key has a position embedding and is shared by all heads. Neither k_h nor v_h has to be computed:
q . (U_h c) = (U_h^T q) . c, so U_h is applied to the query instead; and a weighted sum of values is V_h times the same
weighted sum of the vectors c. So the cache has c and the shared key for each token, whatever the number of heads, and
attention runs with one key head, whose first coordinates are the value.

Shapes: T tokens, D hidden width, H heads, R width of c, W rotated width, K = R + W, P width without position embedding,
V value width.
"""

import torch
from torch import Tensor, nn

from model import kernels
from model.batch import TokenBatch
from model.cache import CacheSpec, LatentSpec
from model.config import LatentAttentionConfig, RotaryConfig
from model.layers.linear import GroupedLinear, Linear
from model.layers.norm import RMSNorm
from model.rotary import Rotary


class LatentAttention(nn.Module):
    """Causal attention that caches one small vector per token."""

    def __init__(self, config: LatentAttentionConfig, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        heads, self.head_dim = config.num_heads, config.nope_head_dim + config.rotary.dim
        query_width = heads * self.head_dim
        # queries (or their low-rank form), c and the shared key in one matrix
        self.widths = [config.q_lora_rank or query_width, config.kv_lora_rank, config.rotary.dim]
        self.in_proj = Linear(hidden_size, sum(self.widths))
        self.q_norm = RMSNorm(config.q_lora_rank, config.norm) if config.q_lora_rank else None
        self.q_proj = Linear(config.q_lora_rank, query_width) if config.q_lora_rank else None
        self.kv_norm = RMSNorm(config.kv_lora_rank, config.norm)
        self.key_absorb = GroupedLinear(heads, config.nope_head_dim, config.kv_lora_rank)  # U_h^T
        self.value_expand = GroupedLinear(heads, config.kv_lora_rank, config.value_dim)  # V_h
        self.out_proj = Linear(heads * config.value_dim, hidden_size)
        self.rotary = Rotary(config.rotary) if isinstance(config.rotary, RotaryConfig) else None

    def cache_spec(self) -> CacheSpec:
        return LatentSpec(self.config.kv_lora_rank + self.config.rotary.dim, self.config.kv_lora_rank)

    def forward(self, x_TD: Tensor, batch: TokenBatch, layer: int) -> Tensor:
        q, c_TR, shared_TW = self.in_proj(x_TD).split(self.widths, dim=-1)
        k_T1K = torch.cat([self.kv_norm(c_TR)[:, None], self._rotated(shared_TW[:, None], batch)], dim=-1)
        v_T1R = k_T1K[..., : self.config.kv_lora_rank]
        seen_THR = batch.attend(layer, self._queries(q, batch), k_T1K, v_T1R, scale=self.config.scale)
        projected: Tensor = self.out_proj(per_head(self.value_expand, seen_THR).flatten(1))
        return projected

    def _rotated(self, x_THW: Tensor, batch: TokenBatch) -> Tensor:
        return x_THW if self.rotary is None else kernels.rotate(x_THW, *batch.rotary_tables(self.rotary))

    def _queries(self, q: Tensor, batch: TokenBatch) -> Tensor:
        """The queries for c and the shared key: [T, H, K]."""
        if self.q_norm is not None and self.q_proj is not None:
            q = self.q_proj(self.q_norm(q))
        parts = [self.config.nope_head_dim, self.config.rotary.dim]
        plain_THP, rotary_THW = q.unflatten(-1, (-1, self.head_dim)).split(parts, dim=-1)
        return torch.cat([per_head(self.key_absorb, plain_THP), self._rotated(rotary_THW, batch)], dim=-1)


def per_head(product: nn.Module, x_THI: Tensor) -> Tensor:
    """Multiply each head by its own matrix, as experts with equal numbers of rows: [T, H, O]."""
    tokens, heads, _ = x_THI.shape
    counts_H = torch.full((heads,), tokens, device=x_THI.device)
    y: Tensor = product(x_THI.transpose(0, 1).flatten(0, 1), counts_H)
    return y.unflatten(0, (heads, tokens)).transpose(0, 1)
