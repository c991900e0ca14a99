"""Mamba (arXiv 2312.00752), the first one: a state-space mixer whose channels have states and decays of their own.

Time steps, B and C are computed of the convolved channels and normalized, as in Jamba (arXiv 2403.19887).

Shapes: T tokens, D hidden width, C channels, J convolution taps, N state width.
"""

import torch
from torch import Tensor, nn

from model.batch import TokenBatch
from model.cache import CacheSpec, StateSpec
from model.config import MambaConfig, NormConfig
from model.kernels.types import SelectiveScan
from model.layers.linear import Linear
from model.layers.norm import RMSNorm


class Mamba(nn.Module):
    """A short convolution, then the selective scan with an output gate. Its state has a constant size."""

    def __init__(self, config: MambaConfig, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        norm, bias = NormConfig(config.norm_eps), config.projection_bias
        self.widths = [config.time_step_rank, config.state_dim, config.state_dim]
        self.in_proj = Linear(hidden_size, 2 * config.width, bias)  # channels and their gates in one matrix
        self.out_proj = Linear(config.width, hidden_size, bias)
        self.x_proj = Linear(config.width, sum(self.widths))
        self.dt_proj = Linear(config.time_step_rank, config.width)
        self.dt_norm, self.B_norm, self.C_norm = (RMSNorm(width, norm) for width in self.widths)
        self.conv_weight = nn.Parameter(torch.empty(config.width, config.conv_width).uniform_(-0.5, 0.5))
        self.conv_bias = nn.Parameter(torch.zeros(config.width)) if config.conv_bias else None
        self.dt_bias = nn.Parameter(torch.full((config.width,), -4.0))  # time steps of about 0.02
        self.A_log = nn.Parameter(torch.arange(1.0, config.state_dim + 1).log().repeat(config.width, 1))
        self.D = nn.Parameter(torch.ones(config.width))

    def cache_spec(self) -> CacheSpec:
        config = self.config
        conv = ("conv", (config.conv_width - 1, config.width))
        return StateSpec((conv, ("scan", (config.width, config.state_dim))))

    def forward(self, x_TD: Tensor, batch: TokenBatch, layer: int) -> Tensor:
        x_TC, gate_TC = self.in_proj(x_TD).chunk(2, dim=-1)
        x_TC = batch.short_conv(layer, x_TC, self.conv_weight, self.conv_bias)
        dt, B_TN, C_TN = self.x_proj(x_TC).split(self.widths, dim=-1)
        inputs = (self.dt_proj(self.dt_norm(dt)), self.B_norm(B_TN), self.C_norm(C_TN), gate_TC)
        y_TC = batch.selective_scan(layer, x_TC, *inputs, SelectiveScan(self.dt_bias, self.A_log, self.D))
        projected: Tensor = self.out_proj(y_TC)
        return projected
