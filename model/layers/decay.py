"""How fast the heads of a recurrent mixer forget before they have learnt it.

Shapes: H heads.
"""

import math

import torch
from torch import Tensor, nn


def reset_decays(A_log_H: Tensor, dt_bias_H: Tensor, lowest: float) -> None:
    """Spread heads over short and long memories: A uniform from `lowest` to 16, time steps log-uniform in [0.001, 0.1].

    A step forgets as e^(-A dt) does.
    """
    nn.init.uniform_(A_log_H, lowest, 16.0).data.log_()
    dt_H = torch.empty_like(dt_bias_H).uniform_(math.log(1e-3), math.log(1e-1)).exp()
    dt_bias_H.data.copy_(dt_H + torch.log(-torch.expm1(-dt_H)))  # softplus(dt_bias) = dt
