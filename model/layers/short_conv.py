"""The gated short convolution of LFM2 (Liquid AI): a mixer whose only state are the last few inputs.

Only `conv_width - 1` tokens back can be seen, so LFM2 has attention in some of its layers too.

Shapes: T tokens, D hidden width.
"""

import torch
from torch import Tensor, nn

from model.batch import TokenBatch
from model.cache import CacheSpec, StateSpec
from model.config import ShortConvConfig
from model.layers.linear import Linear


class ShortConv(nn.Module):
    """out = c * conv(b * x), where b, c and x are projections of the hidden state."""

    def __init__(self, config: ShortConvConfig, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        self.hidden_size = hidden_size
        self.in_proj = Linear(hidden_size, 3 * hidden_size, config.bias)  # b, c and x in one matrix
        self.out_proj = Linear(hidden_size, hidden_size, config.bias)
        self.conv_weight = nn.Parameter(torch.empty(hidden_size, config.conv_width).uniform_(-0.5, 0.5))
        self.conv_bias = nn.Parameter(torch.zeros(hidden_size)) if config.bias else None

    def cache_spec(self) -> CacheSpec:
        return StateSpec((("conv", (self.config.conv_width - 1, self.hidden_size)),))

    def forward(self, x_TD: Tensor, batch: TokenBatch, layer: int) -> Tensor:
        b_TD, c_TD, x_TD = self.in_proj(x_TD).chunk(3, dim=-1)
        y_TD = c_TD * batch.short_conv(layer, b_TD * x_TD, self.conv_weight, self.conv_bias, silu=False)
        projected: Tensor = self.out_proj(y_TD)
        return projected
