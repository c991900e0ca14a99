"""AWQ with four bits (arXiv 2306.00978): weight = (code - zero) * scale.

In the layout "gemm", `qweight` is [I, O / 8], `qzeros` [N, O / 8] and `scales` [N, O]. A word has eight outputs, the
even ones in its low half and the odd ones in its high half. In the layout "gemv", `qweight` is [O, I / 8], `qzeros`
[O, Z] and `scales` [O, 8 Z], of which the first N are of groups. A word has eight inputs or groups, in order.

Shapes: I input width, O output width, N groups of I / N inputs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.quantization.formats.packed import unpack
from model.quantization.formats.reader import Codec, Settings, Shape, require

PLACES = (0, 4, 1, 5, 2, 6, 3, 7)


@dataclass(frozen=True, slots=True)
class Gemm(Codec):
    suffixes: tuple[str, ...] = (".qweight", ".qzeros", ".scales")
    code_dtype: torch.dtype = torch.int32
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


@dataclass(frozen=True, slots=True)
class Gemv(Codec):
    group_size: int
    suffixes: tuple[str, ...] = (".qweight", ".qzeros", ".scales")
    code_dtype: torch.dtype = torch.int32
    nearest_scheme: str = "int4"

    def shape(self, qweight: Shape, qzeros: Shape, scales: Shape) -> Shape | None:
        if not len(qweight) == len(qzeros) == len(scales) == 2:
            return None
        (outputs, words), (_, zero_words) = qweight, qzeros
        inputs, groups = 8 * words, self._groups(8 * words)
        fits = qzeros[0] == outputs and scales == (outputs, 8 * zero_words) and groups <= 8 * zero_words
        return (outputs, inputs) if fits and groups and inputs % groups == 0 else None

    def decode(self, qweight: Tensor, qzeros: Tensor, scales: Tensor) -> Tensor:
        groups = self._groups(8 * qweight.shape[1])
        codes_ONI = unpack(qweight, 4).unflatten(1, (groups, -1))
        zeros_ON, scales_ON = unpack(qzeros, 4)[:, :groups], scales[:, :groups].float()
        return ((codes_ONI - zeros_ON[..., None]) * scales_ON[..., None]).flatten(1)

    def _groups(self, inputs: int) -> int:
        return inputs // self.group_size if self.group_size > 0 else 1


def codecs(settings: Settings) -> tuple[Codec, ...]:
    require(settings, "bits", settings.get("bits", settings.get("w_bit", 4)), (4,))
    layout = settings.get("version") or settings.get("checkpoint_format") or settings.get("format") or "gemm"
    require(settings, "version", str(layout).lower(), ("gemm", "gemv"))
    if str(layout).lower() == "gemm":
        return (Gemm(),)
    size = settings.get("group_size", settings.get("q_group_size", 128))
    require(settings, "group_size", size, (-1, 32, 64, 128))
    return (Gemv(size),)
