"""FP8 with a scale per block (DeepSeek-V3, arXiv 2412.19437, section 3.3.2; the FP8 exports of Qwen and others).

`weight` is in e4m3. Each of its blocks of (usually) 128 x 128 is multiplied by a number of `weight_scale_inv`
(compressed-tensors: `weight_scale`). Blocks at the lower and right edge may be smaller, and there may be dimensions
before the last two.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from model.checkpoints.safetensors_files import CheckpointError
from model.quantization.formats.reader import FLOATS, Codec, Settings, require
from model.quantization.formats.scaled import Scaled, spread_blocks


@dataclass(frozen=True, slots=True)
class Fp8(Codec):
    block: tuple[int, int] = (128, 128)
    suffixes: tuple[str, ...] = ("", "_scale_inv")
    plain_suffix: str = ""
    code_dtype: torch.dtype = torch.float8_e4m3fn
    nearest_scheme: str = "int8"

    @property
    def scale_dtypes(self) -> Mapping[str, Collection[torch.dtype]]:
        return {self.suffixes[1]: FLOATS}

    def shape(self, *parts: tuple[int, ...]) -> tuple[int, ...] | None:
        weight, scale = parts
        if len(weight) < 2:
            return None
        blocks = (-(-size // step) for size, step in zip(weight[-2:], self.block, strict=True))
        return weight if scale == (*weight[:-2], *blocks) else None

    def decode(self, *parts: Tensor) -> Tensor:
        weight = parts[0].float()
        return weight.mul_(spread_blocks(parts[1].float(), self.block, weight.shape[-2:]))


def codecs(settings: Settings) -> tuple[Codec, ...]:
    """Without a block size the activations may be quantized too, and each matrix has one scale.

    The block size is missing in files of AutoFP8, and null in those of Mistral, which name the scales as for blocks.
    """
    require(settings, "fmt", settings.get("fmt") or "e4m3", ("e4m3",))
    if settings.get("activation_scheme") and "weight_block_size" not in settings:
        return (Scaled(torch.float8_e4m3fn),)
    if settings.get("weight_block_size", ()) is None:
        return (Scaled(torch.float8_e4m3fn, (".weight", ".weight_zero_point", ".weight_scale_inv")),)
    require(settings, "activation_scheme", settings.get("activation_scheme") or "dynamic", ("dynamic",))
    return (Fp8(block_size(settings, "weight_block_size")),)


def block_size(settings: Settings, key: str) -> tuple[int, int]:
    """The rows and columns that share a scale. CheckpointError where they are no two sizes."""
    block = settings.get(key, [128, 128])
    if not isinstance(block, list) or len(block) != 2 or not all(isinstance(n, int) and n > 0 for n in block):
        raise CheckpointError(f"{key} is {block!r} in quantization_config: two sizes are expected")
    return block[0], block[1]
