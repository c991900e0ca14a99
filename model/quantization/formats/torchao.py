"""Checkpoints that torchao saved as plain tensors (github.com/pytorch/ao, torchao.prototype.safetensors).

The parts of a weight are named after it: `_weight_qdata`, `_weight_scale` and, unless zero, `_weight_zero_point`. With
eight bits they are like those of scaled.py. With four bits `qdata` [O, I / 2] has signed integers, the even input in
the low half of a byte; scale and zero point are [G, O], and weight = integer * scale + zero point.

Shapes: I input width, O output width, G groups of inputs.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.checkpoints.safetensors_files import CheckpointError
from model.quantization.formats.reader import Codec, Settings, Shape, require
from model.quantization.formats.scaled import Scaled

_PARTS = ("._weight_qdata", "._weight_zero_point", "._weight_scale")


@dataclass(frozen=True, slots=True)
class Int4Codec(Codec):
    suffixes: tuple[str, ...] = _PARTS
    code_dtype: torch.dtype = torch.int8
    nearest_scheme: str = "int4"

    def shape(self, codes: Shape, zero: Shape, scale: Shape) -> Shape | None:
        if not len(codes) == len(scale) == 2 or zero != scale:
            return None
        (outputs, half), groups = codes, scale[0]
        return (outputs, 2 * half) if scale[1] == outputs and groups and 2 * half % groups == 0 else None

    def decode(self, codes: Tensor, zero_GO: Tensor, scale_GO: Tensor) -> Tensor:
        low, high = codes << 4 >> 4, codes >> 4  # with their signs
        integers_OI = torch.stack([low, high], 2).flatten(1)
        grouped = integers_OI.unflatten(1, (len(scale_GO), -1)) * scale_GO.T.float()[..., None]
        return (grouped + zero_GO.T.float()[..., None]).flatten(1)


def _eight_bits(dtype: torch.dtype) -> Scaled:
    return Scaled(dtype, _PARTS)


CONFIGS: dict[str, Codec] = {
    "Int4WeightOnlyConfig": Int4Codec(),
    "Int8WeightOnlyConfig": _eight_bits(torch.int8),
    "Int8DynamicActivationInt8WeightConfig": _eight_bits(torch.int8),
    "IntxWeightOnlyConfig": _eight_bits(torch.int8),
    "Float8WeightOnlyConfig": _eight_bits(torch.float8_e4m3fn),
    "Float8DynamicActivationFloat8WeightConfig": _eight_bits(torch.float8_e4m3fn),
}


def codecs(settings: Settings) -> tuple[Codec, ...]:
    """Activations that are quantized too are not, here."""
    kinds: Any = settings.get("quant_type")
    if not isinstance(kinds, dict) or set(kinds) != {"default"} or not isinstance(kinds["default"], dict):
        raise CheckpointError("quant_type of quantization_config: one `default` way to quantize weights is expected")
    kind = str(kinds["default"].get("_type"))
    require(settings, "quant_type", kind, CONFIGS)
    return (CONFIGS[kind],)
