"""Mamba-2 (arXiv 2405.21060): a state-space mixer with a matrix state per head and a scalar decay per token.

Shapes: T tokens, D hidden width, C convolved channels, H heads, P head width, G groups, N state width, W = H * P.
"""

import torch
from torch import Tensor, nn

from model import kernels
from model.batch import TokenBatch
from model.cache import CacheSpec, StateSpec
from model.config import Mamba2Config
from model.layers.decay import reset_decays
from model.layers.linear import Linear


class Mamba2(nn.Module):
    """A short convolution, the state-space recurrence, then a gated norm. Its state has a constant size."""

    def __init__(self, config: Mamba2Config, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        # gates, inputs of the convolution (values x, keys B, queries C) and time steps in one matrix
        self.widths = [config.width, config.conv_channels, config.num_heads]
        self.in_proj = Linear(hidden_size, sum(self.widths), config.projection_bias)
        self.out_proj = Linear(config.width, hidden_size, config.projection_bias)
        self.conv_weight = nn.Parameter(torch.empty(config.conv_channels, config.conv_width).uniform_(-0.5, 0.5))
        self.conv_bias = nn.Parameter(torch.zeros(config.conv_channels)) if config.conv_bias else None
        self.A_log = nn.Parameter(torch.empty(config.num_heads))
        self.dt_bias = nn.Parameter(torch.empty(config.num_heads))
        self.D = nn.Parameter(torch.ones(config.num_heads))
        self.norm = GroupedGateNorm(config.width, config.num_groups, config.norm_eps)
        if not self.A_log.is_meta:
            reset_decays(self.A_log, self.dt_bias, lowest=1.0)

    def cache_spec(self) -> CacheSpec:
        config = self.config
        conv = ("conv", (config.conv_width - 1, config.conv_channels))
        return StateSpec((conv, ("scan", (config.num_heads, config.head_dim, config.state_dim))))

    def forward(self, x_TD: Tensor, batch: TokenBatch, layer: int) -> Tensor:
        config = self.config
        gate_TW, mixed_TC, dt_TH = self.in_proj(x_TD).split(self.widths, dim=-1)
        mixed_TC = batch.short_conv(layer, mixed_TC, self.conv_weight, self.conv_bias)
        shared = config.num_groups * config.state_dim
        x_TW, B, C = mixed_TC.split([config.width, shared, shared], dim=-1)
        x_THP = x_TW.unflatten(-1, (-1, config.head_dim))
        y_THP = batch.mamba_scan(
            layer,
            x_THP,
            kernels.time_steps(dt_TH, self.dt_bias, *config.time_step_limit),
            -self.A_log.exp(),
            B.unflatten(-1, (-1, config.state_dim)),
            C.unflatten(-1, (-1, config.state_dim)),
        )
        y_THP = (y_THP + self.D[:, None] * x_THP).to(x_TD.dtype)
        projected: Tensor = self.out_proj(self.norm(y_THP.flatten(1), gate_TW))
        return projected


class GroupedGateNorm(nn.Module):
    """y * silu(gate), then an RMSNorm over each group of channels."""

    def __init__(self, width: int, groups: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.groups = groups
        self.eps = eps

    def forward(self, y_TW: Tensor, gate_TW: Tensor) -> Tensor:
        gated_TW = kernels.silu_mul(torch.cat([gate_TW, y_TW], dim=-1))
        groups = zip(gated_TW.chunk(self.groups, dim=-1), self.weight.chunk(self.groups), strict=True)
        return torch.cat([kernels.rms_norm(y, weight, self.eps) for y, weight in groups], dim=-1)
