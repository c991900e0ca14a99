"""TensorRT Model Optimizer of NVIDIA (github.com/NVIDIA/Model-Optimizer), in eight or four bits.

What a matrix is stored as follows from its scales, so files that mix algorithms need no list of their layers: NVFP4 has
`weight_scale_2`, FP8 with a scale per block may have `weight_scale_inv`, and the rest of FP8 has `weight_scale`.
"""

import torch

from model.quantization.formats.fp4 import Nvfp4
from model.quantization.formats.fp8 import Fp8
from model.quantization.formats.reader import Codec, Settings, require
from model.quantization.formats.scaled import Scaled

EIGHT_BITS = ("FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO", "MXFP8")
FOUR_BITS = ("NVFP4", "W4A16_NVFP4", "MIXED_PRECISION")


def codecs(settings: Settings) -> tuple[Codec, ...]:
    algorithm = str(settings.get("quant_algo")).upper()
    require(settings, "quant_algo", algorithm, (*EIGHT_BITS, *FOUR_BITS))
    eight_bits = (Scaled(torch.float8_e4m3fn), Fp8())
    return eight_bits if algorithm in EIGHT_BITS else (Nvfp4(), *eight_bits)
