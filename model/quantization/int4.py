"""int4: integers from -8 to 7, with one bfloat16 scale per output and group of 32 inputs: 4.5 bits per weight.

Scales are fitted by least squares. The relative error for Gaussian weights is 8.3 %; at the same 4.5 bits per weight,
groups of 64 with an offset gave 9.0 %, and scales from the largest weight of a group 8.6 %. Activations have 8 bits
(W4A8), which adds 0.5 %.
"""

from torch import Tensor

from model import kernels
from model.kernels.matmul.codes import GROUP_SIZE, Codes
from model.quantization import int8


def quantize(weight: Tensor) -> Codes:
    """Quantize [..., O, I]; to int8 if the inputs are no multiple of the group size."""
    return int8.quantize(weight) if weight.shape[-1] % GROUP_SIZE else kernels.quantize_int4(weight)
