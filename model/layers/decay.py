"""Initialization of the decays of recurrent mixers.

Shapes: H heads.
"""

import math

import torch
from torch import Tensor, nn


def reset_decays(A_log_H: Tensor, dt_bias_H: Tensor, lowest: float) -> None:
    """Spread the heads over short and long memories: A uniform in [`lowest`, 16], dt log-uniform in [0.001, 0.1].

    A step multiplies the state by e^(-A dt). Initialization of Mamba-2 (arXiv 2405.21060).
    """
    nn.init.uniform_(A_log_H, lowest, 16.0).data.log_()
    dt_H = torch.empty_like(dt_bias_H).uniform_(math.log(1e-3), math.log(1e-1)).exp()
    dt_bias_H.data.copy_(dt_H + torch.log(-torch.expm1(-dt_H)))  # softplus(dt_bias) = dt
