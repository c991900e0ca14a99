"""int4: integers from -8 to 7, with one bfloat16 scale per output and group of 32 inputs: 4.5 bits per weight.

Scales are fitted by least squares. The relative error for Gaussian weights is 8.3 %; at the same 4.5 bits per weight,
groups of 64 with an offset gave 9.0 %, and scales from the largest weight of a group 8.6 %. Activations have 8 bits
(W4A8), which adds 0.5 %.

Shapes: I input width, O output width, N groups in total, M inputs per group.
"""

import torch
from torch import Tensor

from model.kernels.matmul.codes import GROUP_SIZE, Codes
from model.quantization import int8

CHUNK = 1 << 18
ROUNDS = 2


def quantize(weight: Tensor) -> Codes:
    """Quantize [..., O, I]; to int8 if the inputs are no multiple of the group size."""
    *outer, inputs = weight.shape
    if inputs % GROUP_SIZE:
        return int8.quantize(weight)
    values = torch.empty(*outer, inputs // 2, dtype=torch.uint8)
    scales = torch.empty(*outer, inputs // GROUP_SIZE, dtype=torch.bfloat16)
    groups_NM, values_N, scales_N = weight.reshape(-1, GROUP_SIZE), values.view(-1, GROUP_SIZE // 2), scales.view(-1)
    for start in range(0, len(groups_NM), CHUNK // GROUP_SIZE):
        part = slice(start, start + CHUNK // GROUP_SIZE)
        scales_N[part], numbers_NM = _fit(groups_NM[part].float())
        nibbles_NM = numbers_NM.to(torch.int8).view(torch.uint8)
        values_N[part] = (nibbles_NM[:, 0::2] & 15) | (nibbles_NM[:, 1::2] << 4)
    return Codes(values, scales)


def _fit(groups_NM: Tensor) -> tuple[Tensor, Tensor]:
    """Scales [N], which are bfloat16 numbers, and the nearest integers. At first the largest weight is mapped to -8."""
    largest_N1 = groups_NM.gather(1, groups_NM.abs().argmax(1, keepdim=True))
    scale_N1 = largest_N1 / -8
    for _ in range(ROUNDS):
        numbers_NM = _nearest(groups_NM, scale_N1)
        norm_N1 = numbers_NM.square().sum(1, keepdim=True)
        scale_N1 = torch.where(norm_N1 > 0, (groups_NM * numbers_NM).sum(1, keepdim=True) / norm_N1, scale_N1)
    scale_N1 = scale_N1.bfloat16().float()
    return scale_N1.squeeze(1), _nearest(groups_NM, scale_N1)


def _nearest(groups_NM: Tensor, scale_N1: Tensor) -> Tensor:
    inverse_N1 = torch.where(scale_N1 != 0, 1 / scale_N1, 0.0)
    return (groups_NM * inverse_N1).round_().clamp_(-8, 7)
