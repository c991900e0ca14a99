"""AWQ with four bits (arXiv 2306.00978), in the "gemm" layout.

`qweight` [I, O / 8], `qzeros` [N, O / 8] and `scales` [N, O]. A word has eight outputs, the even ones in its low half
and the odd ones in its high half. weight = (code - zero) * scale, stored input first.

Shapes: I input width, O output width, N groups of I / N inputs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.quantization.formats.packed import unpack
from model.quantization.formats.reader import Settings, require

PLACES = (0, 4, 1, 5, 2, 6, 3, 7)


@dataclass(frozen=True, slots=True)
class Awq:
    suffixes: tuple[str, ...] = (".qweight", ".qzeros", ".scales")
    optional: tuple[str, ...] = ()
    plain_suffix: str = ".weight"
    code_dtype: torch.dtype = torch.int32
    plain_dtype: torch.dtype = torch.float32
    nearest_scheme: str = "int4"

    def shape(self, *parts: tuple[int, ...]) -> tuple[int, ...] | None:
        qweight, qzeros, scales = parts
        if not len(qweight) == len(qzeros) == len(scales) == 2:
            return None
        (inputs, words), (groups, outputs) = qweight, scales
        fits = qzeros == (groups, words) and outputs == 8 * words and groups and inputs % groups == 0
        return (outputs, inputs) if fits else None

    def decode(self, *parts: Tensor) -> Tensor:
        qweight, qzeros, scales_NO = parts
        codes_NIO = unpack(qweight, 4, PLACES).unflatten(0, (len(scales_NO), -1))
        zeros_NO = unpack(qzeros, 4, PLACES)
        return ((codes_NIO - zeros_NO[:, None]) * scales_NO.float()[:, None]).flatten(0, 1).T


def codec(settings: Settings) -> Awq:
    require(settings, "bits", settings.get("bits", settings.get("w_bit", 4)), (4,))
    layout = settings.get("version") or settings.get("checkpoint_format") or settings.get("format") or "gemm"
    require(settings, "version", str(layout).lower(), ("gemm",))
    return Awq()
