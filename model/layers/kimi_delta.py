"""Kimi Delta Attention (arXiv 2510.26692): a gated delta rule whose decay differs by key coordinate.

Shapes: T tokens, D hidden width, H heads, K head width, J convolution taps.
"""

import torch
from torch import Tensor, nn

from model import kernels
from model.batch import TokenBatch
from model.cache import CacheSpec, StateSpec
from model.config import KimiDeltaConfig, NormConfig
from model.layers.linear import Linear
from model.layers.norm import RMSNorm


class KimiDelta(nn.Module):
    """A short convolution, the delta rule, then a norm with a sigmoid gate. Its state has a constant size."""

    def __init__(self, config: KimiDeltaConfig, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        width, rank = config.width, config.head_dim
        # queries, keys and values, write strengths b, and the low-rank forms of decays a and output gates in one matrix
        self.widths = [3 * width, config.num_heads, rank, rank]
        self.in_proj = Linear(hidden_size, sum(self.widths))
        self.decay_proj = Linear(rank, width)
        self.gate_proj = Linear(rank, width)
        self.out_proj = Linear(width, hidden_size)
        self.conv_weight = nn.Parameter(torch.empty(3 * width, config.conv_width).uniform_(-0.5, 0.5))
        self.A_log = nn.Parameter(torch.zeros(config.num_heads))
        self.dt_bias = nn.Parameter(torch.full((config.num_heads, config.head_dim), -4.0))
        self.norm = RMSNorm(config.head_dim, NormConfig(config.norm_eps))

    def cache_spec(self) -> CacheSpec:
        config = self.config
        conv = ("conv", (config.conv_width - 1, 3 * config.width))
        return StateSpec((conv, ("delta", (config.num_heads, config.head_dim, config.head_dim))))

    def forward(self, x_TD: Tensor, batch: TokenBatch, layer: int) -> Tensor:
        mixed, b_TH, decay, gate = self.in_proj(x_TD).split(self.widths, dim=-1)
        mixed = batch.short_conv(layer, mixed, self.conv_weight)
        q_THK, k_THK, v_THK = (self._heads(x) for x in mixed.chunk(3, dim=-1))
        a_THK = self._heads(self.decay_proj(decay))
        out_THK = batch.kimi_delta(layer, (q_THK, k_THK, v_THK), a_THK, b_TH, self.A_log, self.dt_bias)
        gated = kernels.sigmoid_mul(self.norm(out_THK).flatten(1), self.gate_proj(gate))
        projected: Tensor = self.out_proj(gated)
        return projected

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.config.head_dim))
