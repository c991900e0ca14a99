"""The types of GGUF tensors, and how their blocks become numbers.

A block has a fixed number of consecutive weights of a row: small integers, with scales (and minima) that multiply (and
are added to) them. The layouts are those of ggml-common.h; numbers are dequantized in float32, like there.

Shapes: N blocks, B bytes or weights of a block, M integers of a scale, G scales of a block.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from model.checkpoints.gguf.codebooks import decoder
from model.kernels.matmul.codes import Codes, Format

Decode = Callable[[Tensor], Tensor]  # bytes of blocks [N, B] -> float32 weights [N, B]

# ggml's non-linear four-bit codes: quantiles of a bell curve
IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
E2M1_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


@dataclass(frozen=True, slots=True)
class GgmlType:
    """`decode` is None where the bytes are numbers of `dtype`, which otherwise holds every decoded number exactly.

    `format` is the one that matrices are served in; None: as plain numbers. `codes` makes that of the blocks [N, B],
    with one row per block, where no weight changes by more than the rounding of its scale and minimum to float16.
    """

    name: str
    block_weights: int
    block_bytes: int
    dtype: torch.dtype = torch.float32
    decode: Decode | None = None
    format: Format | None = None
    codes: Callable[[Tensor], Codes] | None = None

    @property
    def served_bits(self) -> float:
        """Per weight; of plain numbers as if in bfloat16."""
        return 16 if self.format is None else self.format.bits_per_weight


def _half(blocks_NB: Tensor, start: int) -> Tensor:
    """The float16 number at a place of every block: [N, 1]."""
    return blocks_NB[:, start : start + 2].contiguous().view(torch.float16).float()


def _nibbles(bytes_NB: Tensor) -> Tensor:
    """The low halves of all bytes, then the high ones: [N, 2 B]."""
    return torch.cat([bytes_NB & 15, bytes_NB >> 4], dim=1)


def _bits(bytes_NB: Tensor, width: int) -> Tensor:
    """All integers of `width` bits, the lowest of every byte first: [N, 8 / width, B]."""
    shifts = torch.arange(0, 8, width, dtype=torch.uint8)
    return (bytes_NB[:, None] >> shifts[:, None]) & (2**width - 1)


def _scaled(numbers_NB: Tensor, scales_NG: Tensor, minima_NG: Tensor | None = None) -> Tensor:
    """Multiply each of G parts of a block by its scale, and subtract its minimum."""
    parts_NGM = numbers_NB.unflatten(1, (scales_NG.shape[1], -1)).float().mul_(scales_NG[..., None])
    return (parts_NGM if minima_NG is None else parts_NGM.sub_(minima_NG[..., None])).flatten(1)


def _q4_0(blocks_NB: Tensor) -> Tensor:
    return (_nibbles(blocks_NB[:, 2:]).float() - 8) * _half(blocks_NB, 0)


def _q4_1(blocks_NB: Tensor) -> Tensor:
    return _nibbles(blocks_NB[:, 4:]).float() * _half(blocks_NB, 0) + _half(blocks_NB, 2)


def _fifth_bits(bytes_N4: Tensor) -> Tensor:
    """The highest bits of 32 five-bit integers, in place: [N, 32]."""
    return _bits(bytes_N4, 1).mT.flatten(1) << 4


def _q5_0(blocks_NB: Tensor) -> Tensor:
    codes_NB = _nibbles(blocks_NB[:, 6:]) | _fifth_bits(blocks_NB[:, 2:6])
    return (codes_NB.float() - 16) * _half(blocks_NB, 0)


def _q5_1(blocks_NB: Tensor) -> Tensor:
    codes_NB = _nibbles(blocks_NB[:, 8:]) | _fifth_bits(blocks_NB[:, 4:8])
    return codes_NB.float() * _half(blocks_NB, 0) + _half(blocks_NB, 2)


def _q8_0(blocks_NB: Tensor) -> Tensor:
    return blocks_NB[:, 2:].view(torch.int8).float() * _half(blocks_NB, 0)


def _two_bit_codes(bytes_NB: Tensor) -> Tensor:
    """256 integers of two bits: 128 in 32 bytes, the lowest bits of all of them first."""
    return torch.cat([_bits(half_NB, 2).flatten(1) for half_NB in bytes_NB.split(32, dim=1)], dim=1)


def _q2_k(blocks_NB: Tensor) -> Tensor:
    scales_NG, codes_NB = blocks_NB[:, :16], _two_bit_codes(blocks_NB[:, 16:80])
    scale_N1, minimum_N1 = _half(blocks_NB, 80), _half(blocks_NB, 82)
    return _scaled(codes_NB, scale_N1 * (scales_NG & 15).float(), minimum_N1 * (scales_NG >> 4).float())


def _q3_k(blocks_NB: Tensor) -> Tensor:
    third_bits_NB = _bits(blocks_NB[:, :32], 1).flatten(1)
    codes_NB = (_two_bit_codes(blocks_NB[:, 32:96]) | third_bits_NB << 2).to(torch.int8) - 4
    low_NG = _nibbles(blocks_NB[:, 96:104])
    high_NG = _bits(blocks_NB[:, 104:108], 2).flatten(1)
    scales_NG = (low_NG | high_NG << 4).to(torch.int8) - 32
    return _scaled(codes_NB, _half(blocks_NB, 108) * scales_NG.float())


def _six_bit_scales(bytes_N12: Tensor) -> tuple[Tensor, Tensor]:
    """Eight scales and eight minima of six bits each, as Q4_K and Q5_K store them."""
    first, second, rest = bytes_N12.split(4, dim=1)
    scales = torch.cat([first & 63, rest & 15 | first >> 6 << 4], dim=1)
    minima = torch.cat([second & 63, rest >> 4 | second >> 6 << 4], dim=1)
    return scales.float(), minima.float()


def _four_bit_codes(bytes_NB: Tensor) -> Tensor:
    """256 integers of four bits: 64 in 32 bytes, the low halves of all of them first."""
    return torch.cat([_nibbles(part_NB) for part_NB in bytes_NB.split(32, dim=1)], dim=1)


def _q4_k(blocks_NB: Tensor) -> Tensor:
    scales_NG, minima_NG = _six_bit_scales(blocks_NB[:, 4:16])
    codes_NB = _four_bit_codes(blocks_NB[:, 16:])
    return _scaled(codes_NB, _half(blocks_NB, 0) * scales_NG, _half(blocks_NB, 2) * minima_NG)


def _q5_k(blocks_NB: Tensor) -> Tensor:
    scales_NG, minima_NG = _six_bit_scales(blocks_NB[:, 4:16])
    codes_NB = _four_bit_codes(blocks_NB[:, 48:]) | _bits(blocks_NB[:, 16:48], 1).flatten(1) << 4
    return _scaled(codes_NB, _half(blocks_NB, 0) * scales_NG, _half(blocks_NB, 2) * minima_NG)


def _q6_k(blocks_NB: Tensor) -> Tensor:
    low_NB = torch.cat([_nibbles(part_NB) for part_NB in blocks_NB[:, :128].split(64, dim=1)], dim=1)
    codes_NB = (low_NB | _two_bit_codes(blocks_NB[:, 128:192]) << 4).to(torch.int8) - 32
    scales_NG = blocks_NB[:, 192:208].view(torch.int8).float()
    return _scaled(codes_NB, _half(blocks_NB, 208) * scales_NG)


def _looked_up(values: tuple[float, ...], codes_NB: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[codes_NB.int()]


def _iq4_nl(blocks_NB: Tensor) -> Tensor:
    return _looked_up(IQ4_VALUES, _nibbles(blocks_NB[:, 2:])) * _half(blocks_NB, 0)


def _iq4_xs_parts(blocks_NB: Tensor) -> tuple[Tensor, Tensor]:
    """Integers [N, 256] and scales [N, 8]."""
    low_NG = _bits(blocks_NB[:, 4:8], 4).mT.flatten(1)
    high_NG = _bits(blocks_NB[:, 2:4], 2).mT.flatten(1)
    scales_NG = (low_NG | high_NG << 4).to(torch.int8) - 32
    codes_NB = torch.cat([_nibbles(part_NB) for part_NB in blocks_NB[:, 8:].split(16, dim=1)], dim=1)
    return _looked_up(IQ4_VALUES, codes_NB), _half(blocks_NB, 0) * scales_NG.float()


def _iq4_xs(blocks_NB: Tensor) -> Tensor:
    return _scaled(*_iq4_xs_parts(blocks_NB))


def _mxfp4(blocks_NB: Tensor) -> Tensor:
    scale_N1 = blocks_NB[:, :1].contiguous().view(torch.float8_e8m0fnu).float()
    return _looked_up(E2M1_VALUES, _nibbles(blocks_NB[:, 1:])) * scale_N1


def _scale(blocks_NB: Tensor, start: int = 0) -> Tensor:
    """The float16 number at a place of every block, as it is: [N, 1]."""
    return blocks_NB[:, start : start + 2].contiguous().view(torch.float16)


def _paired_nibbles(bytes_NB: Tensor) -> Tensor:
    """The integers of `_nibbles`, two in a byte as `Codes` has them. Two bytes at a time: this is most of loading."""
    words_NW = bytes_NB.contiguous().view(torch.int16)
    low_NW, high_NW = words_NW & 0x0F0F, words_NW >> 4 & 0x0F0F
    return torch.cat([low_NW | low_NW >> 4, high_NW | high_NW >> 4], dim=1).to(torch.uint8)


def _q4_0_codes(blocks_NB: Tensor) -> Codes:
    return Codes(_paired_nibbles(blocks_NB[:, 2:]) ^ 0x88, _scale(blocks_NB))  # 8 less, in two's complement


def _q4_1_codes(blocks_NB: Tensor) -> Codes:
    return Codes(_paired_nibbles(blocks_NB[:, 4:]), _scale(blocks_NB), _scale(blocks_NB, 2))


def _q4_k_codes(blocks_NB: Tensor) -> Codes:
    scales_NG, minima_NG = _six_bit_scales(blocks_NB[:, 4:16])
    scales_NG, minima_NG = _half(blocks_NB, 0) * scales_NG, _half(blocks_NB, 2) * -minima_NG
    values_NB = torch.cat([_paired_nibbles(part_NB) for part_NB in blocks_NB[:, 16:].split(32, dim=1)], dim=1)
    return Codes(values_NB, scales_NG.half(), minima_NG.half())


def _q5_0_codes(blocks_NB: Tensor) -> Codes:
    codes_NB = _nibbles(blocks_NB[:, 6:]) | _fifth_bits(blocks_NB[:, 2:6])
    return Codes(codes_NB.to(torch.int8) - 16, _scale(blocks_NB))


def _q8_0_codes(blocks_NB: Tensor) -> Codes:
    return Codes(blocks_NB[:, 2:].view(torch.int8), _scale(blocks_NB))


def _iq4_nl_codes(blocks_NB: Tensor) -> Codes:
    return Codes(_looked_up(IQ4_VALUES, _nibbles(blocks_NB[:, 2:])).to(torch.int8), _scale(blocks_NB))


def _iq4_xs_codes(blocks_NB: Tensor) -> Codes:
    numbers_NB, scales_NG = _iq4_xs_parts(blocks_NB)
    return Codes(numbers_NB.to(torch.int8), scales_NG.half())


TYPES = {
    0: GgmlType("F32", 1, 4),
    1: GgmlType("F16", 1, 2, torch.float16),
    30: GgmlType("BF16", 1, 2, torch.bfloat16),
    2: GgmlType("Q4_0", 32, 18, decode=_q4_0, format=Format.INT4, codes=_q4_0_codes),
    3: GgmlType("Q4_1", 32, 20, decode=_q4_1, format=Format.Q4_1, codes=_q4_1_codes),
    6: GgmlType("Q5_0", 32, 22, decode=_q5_0, format=Format.Q8_0, codes=_q5_0_codes),
    7: GgmlType("Q5_1", 32, 24, decode=_q5_1, format=Format.Q8_0),
    8: GgmlType("Q8_0", 32, 34, decode=_q8_0, format=Format.Q8_0, codes=_q8_0_codes),
    10: GgmlType("Q2_K", 256, 84, decode=_q2_k, format=Format.INT4),
    11: GgmlType("Q3_K", 256, 110, decode=_q3_k, format=Format.INT4),
    12: GgmlType("Q4_K", 256, 144, decode=_q4_k, format=Format.Q4_1, codes=_q4_k_codes),
    13: GgmlType("Q5_K", 256, 176, decode=_q5_k, format=Format.Q8_0),
    14: GgmlType("Q6_K", 256, 210, decode=_q6_k, format=Format.Q8_0),
    16: GgmlType("IQ2_XXS", 256, 66, decode=decoder("IQ2_XXS"), format=Format.INT4),
    17: GgmlType("IQ2_XS", 256, 74, decode=decoder("IQ2_XS"), format=Format.INT4),
    18: GgmlType("IQ3_XXS", 256, 98, decode=decoder("IQ3_XXS"), format=Format.INT4),
    19: GgmlType("IQ1_S", 256, 50, decode=decoder("IQ1_S"), format=Format.INT4),
    20: GgmlType("IQ4_NL", 32, 18, decode=_iq4_nl, format=Format.Q8_0, codes=_iq4_nl_codes),
    21: GgmlType("IQ3_S", 256, 110, decode=decoder("IQ3_S"), format=Format.INT4),
    22: GgmlType("IQ2_S", 256, 82, decode=decoder("IQ2_S"), format=Format.INT4),
    23: GgmlType("IQ4_XS", 256, 136, decode=_iq4_xs, format=Format.Q8_0, codes=_iq4_xs_codes),
    29: GgmlType("IQ1_M", 256, 56, decode=decoder("IQ1_M"), format=Format.INT4),
    39: GgmlType("MXFP4", 32, 17, torch.bfloat16, _mxfp4, format=Format.INT4),
}

# of types that are not read, for the message
OTHER_NAMES = {
    9: "Q8_1", 15: "Q8_K", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 34: "TQ1_0", 35: "TQ2_0", 40: "NVFP4",
}  # fmt: skip
