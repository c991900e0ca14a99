"""q8_0: integers from -127 to 127, with one float16 scale per output and group of 32 inputs; activations in 16 bits.

This is how matrices of GGUF files are served that have more than four bits, or minima in another order of inputs than
ours. The relative error for Gaussian weights is 0.5 %.

Shapes: N groups in total, M inputs per group.
"""

import torch
from torch import Tensor

from model.kernels.matmul.codes import GROUP_SIZE, Codes
from model.quantization import int8

CHUNK = 1 << 18
LARGEST = torch.finfo(torch.float16).max


def quantize(weight: Tensor) -> Codes:
    """Quantize [..., O, I]; to int8 if the inputs are no multiple of the group size."""
    *outer, inputs = weight.shape
    if inputs % GROUP_SIZE:
        return int8.quantize(weight)
    values = torch.empty(weight.shape, dtype=torch.int8)
    scales = torch.empty(*outer, inputs // GROUP_SIZE, dtype=torch.float16)
    groups_NM, values_NM, scales_N = weight.reshape(-1, GROUP_SIZE), values.view(-1, GROUP_SIZE), scales.view(-1)
    for start in range(0, len(groups_NM), CHUNK // GROUP_SIZE):
        part = slice(start, start + CHUNK // GROUP_SIZE)
        numbers_NM = groups_NM[part].float()
        scale_N = (numbers_NM.abs().amax(1) / 127).clamp(max=LARGEST).half()
        inverse_N = torch.where(scale_N > 0, 1 / scale_N.float(), 0.0)
        scales_N[part] = scale_N
        values_NM[part] = (numbers_NM * inverse_N[:, None]).round_().clamp_(-127, 127)
    return Codes(values, scales)
