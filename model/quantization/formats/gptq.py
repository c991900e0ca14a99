"""GPTQ with four or eight bits (arXiv 2210.17323), as AutoGPTQ and its successors store it.

`qweight` [I / 8, O] has eight inputs per word (four with eight bits). `qzeros` [N, O / 8], `scales` [N, O], and `g_idx`
[I], the group of every input, which is in any order with `desc_act`. weight = (code - zero) * scale. The first version
of the format stores zero points minus one, "gptq_v2" stores them unchanged.

Shapes: I input width, O output width, N groups.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.quantization.formats.packed import unpack
from model.quantization.formats.reader import Settings, require

ZERO_OFFSETS = {"gptq": 1, "gptq_v2": 0}
SCHEMES = {4: "int4", 8: "int8"}


@dataclass(frozen=True, slots=True)
class Gptq:
    bits: int = 4
    zero_offset: int = 1
    suffixes: tuple[str, ...] = (".qweight", ".qzeros", ".g_idx", ".scales")
    plain_suffix: str = ".weight"
    code_dtype: torch.dtype = torch.int32
    plain_dtype: torch.dtype = torch.float32

    @property
    def nearest_scheme(self) -> str:
        return SCHEMES[self.bits]

    def shape(self, *parts: tuple[int, ...]) -> tuple[int, ...] | None:
        qweight, qzeros, g_idx, scales = parts
        if not len(qweight) == len(qzeros) == len(scales) == 2:
            return None
        (words, outputs), groups, per_word = qweight, scales[0], 32 // self.bits
        fits = g_idx == (per_word * words,) and scales[1] == outputs and qzeros == (groups, outputs // per_word)
        return (outputs, per_word * words) if fits else None

    def decode(self, *parts: Tensor) -> Tensor:
        qweight, qzeros, g_idx, scales_NO = parts
        codes_OI = unpack(qweight.T, self.bits)
        zeros_NO = (unpack(qzeros, self.bits) + self.zero_offset) & (2**self.bits - 1)
        zeros_OI, scales_OI = (x_NO.index_select(0, g_idx).T for x_NO in (zeros_NO, scales_NO.float()))
        return (codes_OI - zeros_OI) * scales_OI


def codec(settings: Settings) -> Gptq:
    bits, layout = settings.get("bits", 4), settings.get("checkpoint_format") or settings.get("format") or "gptq"
    require(settings, "bits", bits, SCHEMES)
    require(settings, "checkpoint_format", layout, ZERO_OFFSETS)
    return Gptq(bits, ZERO_OFFSETS[layout])
