"""bitsandbytes with four bits (nf4 and fp4 of QLoRA, arXiv 2305.14314) and with eight (LLM.int8(), arXiv 2208.07339).

With four bits `weight` [W / 2, 1] has two codes per byte, the first in the high half, of all W weights one after
another; `quant_map` [16] has their values, and `absmax` [B] multiplies each block of (usually) 64 weights. It may be
quantized too: then it has bytes, whose values are in `nested_quant_map` [256], times `nested_absmax` for each (usually)
256 of them, plus an offset. `quant_state` is JSON, in bytes: the shape of the matrix, the sizes of blocks, the offset.

Shapes: W weights, B blocks.
"""

import json
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from model.checkpoints.safetensors_files import CheckpointError
from model.quantization.formats.reader import Codec, Settings, Shape, require
from model.quantization.formats.scaled import Scaled

KINDS = ("nf4", "fp4")
_NESTED = (".weight.nested_absmax", ".weight.nested_quant_map")


@dataclass(frozen=True, slots=True)
class FourBits(Codec):
    kind: str = "nf4"
    optional: tuple[str, ...] = _NESTED
    code_dtype: torch.dtype = torch.uint8
    nearest_scheme: str = "int4"

    @property
    def suffixes(self) -> tuple[str, ...]:
        state = f".weight.quant_state.bitsandbytes__{self.kind}"
        return (".weight", ".weight.absmax", *_NESTED, ".weight.quant_map", state)

    def described_shape(self, state: Tensor) -> Shape:
        return _state(state)[0]

    def shape(
        self, codes: Shape, absmax: Shape, nested: Shape | None, nested_map: Shape | None, values: Shape, plain: Shape
    ) -> Shape | None:
        fits = prod(codes) * 2 == prod(plain) and values == (16,) and len(absmax) == 1
        return plain if fits and (nested is None) == (nested_map is None) else None

    def decode(
        self,
        codes: Tensor,
        absmax_B: Tensor,
        nested: Tensor | None,
        nested_map: Tensor | None,
        values: Tensor,
        state: Tensor,
    ) -> Tensor:
        shape, said = _state(state)
        if nested is not None and nested_map is not None:
            scales = nested.repeat_interleave(_size(said, "nested_blocksize"))[: len(absmax_B)]
            absmax_B = nested_map[absmax_B.int()] * scales + _offset(said)
        pairs = codes.flatten()
        weights = values[torch.stack([pairs >> 4, pairs & 15], 1).flatten().int()]
        return weights.mul_(absmax_B.repeat_interleave(_size(said, "blocksize"))[: len(weights)]).view(shape)


def _state(state: Tensor) -> tuple[Shape, dict[str, Any]]:
    try:
        said = json.loads(bytes(state.tolist()))
        shape = said["shape"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"a quant_state of bitsandbytes is no JSON with a shape: {error}") from error
    if not isinstance(shape, list) or not all(type(size) is int and size > 0 for size in shape):
        raise CheckpointError(f"a quant_state of bitsandbytes has the shape {shape!r}: a list of sizes is expected")
    return tuple(shape), said


def _size(said: dict[str, Any], key: str) -> int:
    size = said.get(key)
    if type(size) is not int or not 0 < size <= 4096:
        raise CheckpointError(f"a quant_state of bitsandbytes has the {key} {size!r}: 1 to 4096 are expected")
    return size


def _offset(said: dict[str, Any]) -> float:
    offset = said.get("nested_offset")
    if not isinstance(offset, int | float) or not abs(offset) < 1e9:  # NaN is not, either
        raise CheckpointError(
            f"a quant_state of bitsandbytes has the nested_offset {offset!r}: a number below 1e9 is expected"
        )
    return float(offset)


def codecs(settings: Settings) -> tuple[Codec, ...]:
    if settings.get("load_in_4bit"):
        kind = settings.get("bnb_4bit_quant_type", "fp4")
        require(settings, "bnb_4bit_quant_type", kind, KINDS)
        require(settings, "bnb_4bit_quant_storage", settings.get("bnb_4bit_quant_storage") or "uint8", ("uint8",))
        return (FourBits(kind),)
    require(settings, "load_in_8bit", settings.get("load_in_8bit"), (True,))
    return (Scaled(torch.int8, (".weight", ".weight_zero_point", ".SCB"), 127.0),)
