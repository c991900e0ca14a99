"""GPTQ with three, four or eight bits (arXiv 2210.17323), as AutoGPTQ and its successors store it.

`qweight` [I / 8, O] has eight inputs per word (four with eight bits; 32 in three words with three). `qzeros` [N, O / 8]
and `scales` [N, O] are by group, and `g_idx` [I] has the group of every input, which is in any order with `desc_act`;
without it the groups lie one after another. weight = (code - zero) * scale. The first version of the format stores zero
points minus one, "gptq_v2" stores them unchanged.

Shapes: I input width, O output width, N groups.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.quantization.formats.packed import unpack
from model.quantization.formats.reader import Codec, Settings, Shape, require

ZERO_OFFSETS = {"gptq": 1, "gptq_v2": 0}
SCHEMES = {3: "int4", 4: "int4", 8: "int8"}


@dataclass(frozen=True, slots=True)
class Gptq(Codec):
    bits: int = 4
    zero_offset: int = 1
    suffixes: tuple[str, ...] = (".qweight", ".qzeros", ".g_idx", ".scales")
    optional: tuple[str, ...] = (".g_idx",)
    code_dtype: torch.dtype = torch.int32

    @property
    def nearest_scheme(self) -> str:
        return SCHEMES[self.bits]

    def shape(self, qweight: Shape, qzeros: Shape, g_idx: Shape | None, scales: Shape) -> Shape | None:
        if not len(qweight) == len(qzeros) == len(scales) == 2:
            return None
        (words, outputs), groups, inputs = qweight, scales[0], 32 * qweight[0] // self.bits
        in_order = g_idx is None and groups and inputs % groups == 0
        whole_words = 32 * words == inputs * self.bits and outputs * self.bits % 32 == 0
        fits = scales[1] == outputs and qzeros == (groups, outputs * self.bits // 32)
        return (outputs, inputs) if fits and whole_words and (in_order or g_idx == (inputs,)) else None

    def decode(self, qweight: Tensor, qzeros: Tensor, g_idx: Tensor | None, scales_NO: Tensor) -> Tensor:
        if g_idx is None:
            inputs = 32 * len(qweight) // self.bits
            g_idx = torch.arange(inputs) // (inputs // len(scales_NO))
        codes_OI = unpack(qweight.T, self.bits)
        zeros_NO = (unpack(qzeros, self.bits) + self.zero_offset) & (2**self.bits - 1)
        zeros_OI, scales_OI = (x_NO.index_select(0, g_idx).T for x_NO in (zeros_NO, scales_NO.float()))
        return (codes_OI - zeros_OI) * scales_OI


def codecs(settings: Settings) -> tuple[Codec, ...]:
    bits, layout = settings.get("bits", 4), settings.get("checkpoint_format") or settings.get("format") or "gptq"
    require(settings, "bits", bits, SCHEMES)
    require(settings, "checkpoint_format", layout, ZERO_OFFSETS)
    return (Gptq(bits, ZERO_OFFSETS[layout]),)
