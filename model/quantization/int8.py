"""int8: integers from -127 to 127, with one float32 scale per output; activations in 16 bits (W8A16)."""

from torch import Tensor

from model import kernels
from model.kernels.matmul.codes import Codes


def quantize(weight: Tensor) -> Codes:
    """Quantize [..., O, I]."""
    return kernels.quantize_int8(weight)
