"""Gated DeltaNet (arXiv 2412.06464): a recurrent mixer with a matrix state per head, updated by the delta rule.

Shapes: T tokens, D hidden width, C convolved channels, Q key heads, H value heads, K key width, V value width.
"""

import torch
from torch import Tensor, nn

from model.batch import TokenBatch
from model.cache import CacheSpec, StateSpec
from model.config import DeltaNetConfig
from model.kernels.types import GatedDelta
from model.layers.decay import reset_decays
from model.layers.linear import Linear
from model.layers.norm import GatedRMSNorm


class DeltaNet(nn.Module):
    """A short convolution, then the gated delta rule. Its state has a constant size."""

    def __init__(self, config: DeltaNetConfig, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        heads, value_width = config.num_value_heads, config.num_value_heads * config.value_dim
        # queries, keys, values, output gates z, write strengths b and decays a in one matrix
        self.in_proj = Linear(hidden_size, config.conv_channels + value_width + 2 * heads)
        self.out_proj = Linear(value_width, hidden_size)
        self.conv_weight = nn.Parameter(torch.empty(config.conv_channels, config.conv_width))
        self.A_log = nn.Parameter(torch.empty(heads))
        self.dt_bias = nn.Parameter(torch.empty(heads))
        self.norm = GatedRMSNorm(config.value_dim, config.norm_eps)
        if not self.A_log.is_meta:
            reset_decays(self.A_log, self.dt_bias, lowest=1e-3)

    def cache_spec(self) -> CacheSpec:
        config = self.config
        conv = ("conv", (config.conv_width - 1, config.conv_channels))
        delta = ("delta", (config.num_value_heads, config.key_dim, config.value_dim))
        return StateSpec((conv, delta))

    def forward(self, x_TD: Tensor, batch: TokenBatch, layer: int) -> Tensor:
        projected: Tensor = self.out_proj(batch.gated_delta(layer, self.in_proj(x_TD), self.small_weights()))
        return projected

    def small_weights(self) -> GatedDelta:
        """The weights between the input and the output projection."""
        norm = self.norm
        return GatedDelta(
            self.conv_weight, self.A_log, self.dt_bias, norm.weight, norm.eps, key_width=self.config.key_dim
        )
