"""The definition of the quantization to INT4 in PyTorch: the compiled one has the same bits.

Shapes: I input width, O output width, N groups in total, M inputs per group, C columns of a sum.
"""

import torch
from torch import Tensor

from model.kernels.matmul.codes import GROUP_SIZE, Codes

CHUNK = 1 << 18  # weights quantized at a time, so that intermediate results stay in the cache
ROUNDS = 2
COLUMNS = 8


def quantize_int4(weight: Tensor) -> Codes:
    """Integers from -8 to 7 for [..., O, I], I a multiple of the group size, with the scales that fit each group."""
    *outer, inputs = weight.shape
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
        scale_N1 = torch.where(norm_N1 > 0, _sum(groups_NM * numbers_NM) / norm_N1, scale_N1)
    scale_N1 = scale_N1.bfloat16().float()
    return scale_N1.squeeze(1), _nearest(groups_NM, scale_N1)


def _nearest(groups_NM: Tensor, scale_N1: Tensor) -> Tensor:
    inverse_N1 = torch.where(scale_N1 != 0, 1 / scale_N1, 0.0)
    return (groups_NM * inverse_N1).round_().clamp_(-8, 7)


def _sum(products_NM: Tensor) -> Tensor:
    """[N, 1], added up in a fixed order: that of `torch.sum` depends on the processor, and so would the scales."""
    columns_NC = torch.zeros(len(products_NM), COLUMNS)
    for part_NC in products_NM.split(COLUMNS, dim=1):
        columns_NC += part_NC
    sum_N1 = torch.zeros(len(products_NM), 1)
    for column_N1 in columns_NC.split(1, dim=1):
        sum_N1 += column_N1
    return sum_N1
