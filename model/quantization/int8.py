"""int8: integers from -127 to 127, with one float32 scale per output; activations in 16 bits (W8A16).

Shapes: I input width, O output width.
"""

import torch
from torch import Tensor

from model.kernels.matmul.codes import Codes

CHUNK = 1 << 18  # weights quantized at a time, so that intermediate results stay in the cache


def quantize(weight: Tensor) -> Codes:
    """Round each weight of [..., O, I] to the nearest multiple of the largest of its row / 127."""
    values = torch.empty(weight.shape, dtype=torch.int8)
    scales = torch.empty(weight.shape[:-1], dtype=torch.float32)
    rows_OI, values_OI, scales_O = weight.flatten(0, -2), values.flatten(0, -2), scales.flatten()
    step = max(1, CHUNK // weight.shape[-1])
    for start in range(0, len(rows_OI), step):
        rows = rows_OI[start : start + step].float()
        scale = rows.abs().amax(1) / 127
        scales_O[start : start + step] = scale
        inverse = torch.where(scale > 0, 1 / scale, 0.0)
        values_OI[start : start + step] = (rows * inverse[:, None]).round_()
    return Codes(values, scales)
