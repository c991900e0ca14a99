"""compressed-tensors, the format of llm-compressor (github.com/vllm-project/compressed-tensors), in four or eight bits.

FP8 and int8 are stored as they are (scaled.py, fp8.py), and e2m1 is packed in bytes (fp4.py). Packed integers are
`weight_packed` [O, I / 8], eight inputs per word (four with eight bits), plus half of their range; `weight_scale`
[O, G]; and optionally `weight_zero_point` [O / 8, G], packed along the outputs, and `weight_g_idx` [I], the group of
every input.

Shapes: I input width, O output width, G groups.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.checkpoints.safetensors_files import CheckpointError
from model.quantization.formats.fp4 import Mxfp4Matrix, Nvfp4
from model.quantization.formats.fp8 import Fp8, block_size
from model.quantization.formats.packed import unpack
from model.quantization.formats.reader import Codec, Settings, Shape, require
from model.quantization.formats.scaled import Scaled

SCHEMES = {4: "int4", 8: "int8"}
STORED_PLAINLY = {
    "float-quantized": torch.float8_e4m3fn,
    "int-quantized": torch.int8,
    "mxfp8-quantized": torch.float8_e4m3fn,
    "naive-quantized": None,  # as the type of the weights says
}
PACKED = "pack-quantized"
FP4: dict[str, Codec] = {
    "mxfp4-pack-quantized": Mxfp4Matrix(),
    "nvfp4-pack-quantized": Nvfp4((".weight_packed", ".weight_scale", ".weight_global_scale"), divides=True),
}


@dataclass(frozen=True, slots=True)
class PackedIntegers(Codec):
    bits: int = 4
    suffixes: tuple[str, ...] = (
        ".weight_packed", ".weight_zero_point", ".weight_g_idx", ".weight_shape", ".weight_scale",
    )  # fmt: skip
    optional: tuple[str, ...] = (".weight_zero_point", ".weight_g_idx", ".weight_shape")
    code_dtype: torch.dtype = torch.int32

    @property
    def nearest_scheme(self) -> str:
        return SCHEMES[self.bits]

    def shape(
        self, packed: Shape, zero: Shape | None, g_idx: Shape | None, stored: Shape | None, scale: Shape
    ) -> Shape | None:
        if not len(packed) == len(scale) == 2 or not scale[1]:
            return None
        outputs, inputs = packed[0], packed[1] * 32 // self.bits
        fits = scale[0] == outputs and zero in (None, (outputs * self.bits // 32, scale[1]))
        in_order = g_idx is None and inputs % scale[1] == 0
        return (outputs, inputs) if fits and (in_order or g_idx == (inputs,)) else None

    def decode(
        self, packed: Tensor, zero: Tensor | None, g_idx: Tensor | None, stored: Tensor | None, scale_OG: Tensor
    ) -> Tensor:
        half, inputs = 2 ** (self.bits - 1), packed.shape[1] * 32 // self.bits
        if g_idx is None:
            g_idx = torch.arange(inputs) // (inputs // scale_OG.shape[1])
        codes_OI = unpack(packed, self.bits) - half
        if zero is not None:
            codes_OI -= (unpack(zero.T, self.bits).T - half).index_select(1, g_idx.int())
        return codes_OI * scale_OG.float().index_select(1, g_idx.int())


def codecs(settings: Settings) -> tuple[Codec, ...]:
    """One for each way to quantize weights, which the names of the scales must tell apart."""
    found = {_codec(settings, layout, weights) for layout, weights in _groups(settings)}
    if len({codec.suffixes[-1] for codec in found}) < max(1, len(found)):
        raise CheckpointError(
            "config_groups of quantization_config: one way to quantize weights is expected, or NVFP4 beside another one"
        )
    # NVFP4 first: what it leaves has no scale of the matrix
    return tuple(sorted(found, key=lambda codec: not isinstance(codec, Nvfp4)))


def _groups(settings: Settings) -> Iterator[tuple[str, dict[str, Any]]]:
    """The layout and the other settings of each group of modules whose weights are quantized."""
    groups = settings.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        if isinstance(group, dict) and isinstance(group.get("weights"), dict):
            yield str(group.get("format") or settings.get("format")), group["weights"]


def _codec(settings: Settings, layout: str, weights: dict[str, Any]) -> Codec:
    require(settings, "format", layout, (*STORED_PLAINLY, PACKED, *FP4))
    if layout in FP4:
        return FP4[layout]
    if layout == PACKED:
        require(settings, "num_bits", weights.get("num_bits"), SCHEMES)
        require(settings, "type", weights.get("type", "int"), ("int",))
        return PackedIntegers(int(weights["num_bits"]))
    require(settings, "num_bits", weights.get("num_bits"), (8,))
    require(settings, "strategy", weights.get("strategy"), ("tensor", "channel", "group", "block"))
    if weights["strategy"] == "block":
        require(settings, "type", weights.get("type"), ("float",))
        return Fp8(block_size(weights, "block_structure"), (".weight", ".weight_scale"), ".weight")
    kind = torch.float8_e4m3fn if weights.get("type") == "float" else torch.int8
    return Scaled(STORED_PLAINLY[layout] or kind)
