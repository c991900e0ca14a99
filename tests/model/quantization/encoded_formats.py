"""Encoders of the formats that quantized checkpoints come in, element by element, from the formats' definitions.

Each takes a plain matrix [O, I] (MXFP4: [E, O, I]) and gives the tensors that a checkpoint stores, by the end of their
names, and what these stand for.
"""

import json
import math
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor


class Encoded(NamedTuple):
    """Stored tensors by the end of their names, and the plain tensor that they mean."""

    parts: dict[str, Tensor]
    plain: Tensor


def fp8(weight: Tensor, block: tuple[int, int] = (128, 128)) -> Encoded:
    rows, columns = weight.shape
    scales = torch.zeros(math.ceil(rows / block[0]), math.ceil(columns / block[1]))
    codes = torch.zeros_like(weight).to(torch.float8_e4m3fn)
    for i, j in product(range(scales.shape[0]), range(scales.shape[1])):
        place = slice(i * block[0], (i + 1) * block[0]), slice(j * block[1], (j + 1) * block[1])
        scales[i, j] = weight[place].abs().max() / 448
        codes[place] = (weight[place] / scales[i, j]).to(torch.float8_e4m3fn)
    numbers, factors = codes.tolist(), scales.tolist()
    plain = [[numbers[r][c] * factors[r // block[0]][c // block[1]] for c in range(columns)] for r in range(rows)]
    return Encoded({"weight": codes, "weight_scale_inv": scales}, torch.tensor(plain))


FP4 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]


def mxfp4(weight_EOI: Tensor) -> Encoded:
    blocks, scales, plain = [], [], []  # flat, in the order of the elements
    values = weight_EOI.flatten().tolist()
    for start in range(0, len(values), 32):
        block = values[start : start + 32]
        exponent = math.floor(math.log2(max(map(abs, block)))) - 2
        codes = [min(range(16), key=lambda code: abs(FP4[code] - value / 2.0**exponent)) for value in block]
        blocks += [low + 16 * high for low, high in zip(codes[::2], codes[1::2], strict=True)]
        scales.append(exponent + 127)
        plain += [FP4[code] * 2.0**exponent for code in codes]
    experts, outputs, inputs = weight_EOI.shape
    shape = (experts, outputs, inputs // 32)
    parts = {
        "blocks": torch.tensor(blocks, dtype=torch.uint8).view(*shape, 16),
        "scales": torch.tensor(scales, dtype=torch.uint8).view(shape),
    }
    return Encoded(parts, torch.tensor(plain).view_as(weight_EOI))


def mxfp4_matrix(weight: Tensor) -> Encoded:
    """As compressed-tensors names and shapes it."""
    encoded = mxfp4(weight[None])
    blocks, scales = encoded.parts["blocks"], encoded.parts["scales"]
    return Encoded({"weight_packed": blocks[0].flatten(1), "weight_scale": scales[0]}, encoded.plain[0])


def nvfp4(weight: Tensor, names: tuple[str, str, str], *, divides: bool) -> Encoded:
    """Blocks of 16 inputs with a scale in e4m3; `names` are those of codes, scales and the scale of the matrix."""
    outputs, inputs = weight.shape
    blocks_NB = weight.reshape(-1, 16)
    whole = weight.abs().max() / (6 * 448)
    stored = (1 / whole).view(1) if divides else whole
    scales_N = (blocks_NB.abs().amax(1) / 6 / whole).to(torch.float8_e4m3fn)
    factors = (scales_N.float() / stored if divides else scales_N.float() * stored).tolist()
    codes = [
        min(range(16), key=lambda code: abs(FP4[code] * factor - value))
        for block, factor in zip(blocks_NB.tolist(), factors, strict=True)
        for value in block
    ]
    packed = [low + 16 * high for low, high in zip(codes[::2], codes[1::2], strict=True)]
    parts = (
        torch.tensor(packed, dtype=torch.uint8).view(outputs, inputs // 2),
        scales_N.view(outputs, inputs // 16),
        stored,
    )
    plain = torch.tensor([FP4[code] for code in codes]) * torch.tensor(factors).repeat_interleave(16)
    return Encoded(dict(zip(names, parts, strict=True)), plain.view_as(weight))


def mxfp8(weight: Tensor) -> Encoded:
    """Blocks of 32 inputs in e4m3 that share a power of two."""
    outputs, inputs = weight.shape
    blocks_NB = weight.reshape(-1, 32)
    exponents_N = blocks_NB.abs().amax(1).log2().floor() - 7
    codes_NB = (blocks_NB / exponents_N.exp2()[:, None]).to(torch.float8_e4m3fn)
    rows = zip(codes_NB.tolist(), exponents_N.tolist(), strict=True)
    plain = [[number * 2.0**exponent for number in row] for row, exponent in rows]
    parts = {
        "weight": codes_NB.view(outputs, inputs),
        "weight_scale": (exponents_N + 127).to(torch.uint8).view(outputs, inputs // 32),
    }
    return Encoded(parts, torch.tensor(plain).view_as(weight))


def awq(weight: Tensor, group_size: int) -> Encoded:
    outputs, inputs = weight.shape
    codes, zeros, scales, plain = _grid(weight, [i // group_size for i in range(inputs)], bits=4)
    order = [0, 2, 4, 6, 1, 3, 5, 7]  # which of eight outputs comes next, from the lowest bits
    qweight = [[_word([codes[i][8 * w + o] for o in order], 4) for w in range(outputs // 8)] for i in range(inputs)]
    qzeros = [[_word([row[8 * w + o] for o in order], 4) for w in range(outputs // 8)] for row in zeros]
    return Encoded({"qweight": _int32(qweight), "qzeros": _int32(qzeros), "scales": scales}, plain)


def awq_gemv(weight: Tensor, group_size: int) -> Encoded:
    """Zero points and scales have room for a whole number of words, in steps of 256 inputs and more."""
    outputs, inputs = weight.shape
    codes, zeros, scales, plain = _grid(weight, [i // group_size for i in range(inputs)], bits=4)
    step = {32: 4, 64: 2, 128: 1}[group_size]
    width = math.ceil(math.ceil(len(zeros) / 8) / step) * step
    qweight = [[_word([codes[8 * w + i][o] for i in range(8)], 4) for w in range(inputs // 8)] for o in range(outputs)]
    padded = zeros + [[0] * outputs] * (8 * width - len(zeros))
    qzeros = [[_word([padded[8 * w + n][o] for n in range(8)], 4) for w in range(width)] for o in range(outputs)]
    wide = torch.zeros(outputs, 8 * width, dtype=torch.float16)
    wide[:, : len(zeros)] = scales.T
    return Encoded({"qweight": _int32(qweight), "qzeros": _int32(qzeros), "scales": wide}, plain)


# Quantiles of the normal distribution, as bitsandbytes stores them
NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip


def nf4(weight: Tensor, *, nested: bool) -> Encoded:
    """bitsandbytes with blocks of 64; `nested`: their scales quantized to bytes, here linearly."""
    blocks = weight.reshape(-1, 64).tolist()
    largest = torch.tensor([max(map(abs, block)) for block in blocks])
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": list(weight.shape)}
    parts, absmax = {}, largest
    if nested:
        offset, nested_map = float(largest.mean()), torch.linspace(-1, 1, 256)
        of_256 = [(part - offset).abs().max() for part in largest.split(256)]
        numbers = [
            min(range(256), key=lambda n: abs(float(nested_map[n] * of_256[b // 256]) + offset - float(largest[b])))
            for b in range(len(blocks))
        ]
        absmax = torch.tensor([float(nested_map[n] * of_256[b // 256]) for b, n in enumerate(numbers)]) + offset
        parts = {"absmax": torch.tensor(numbers, dtype=torch.uint8), "nested_quant_map": nested_map}
        parts["nested_absmax"] = torch.stack(of_256)
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": offset}
    codes = [
        min(range(16), key=lambda code: abs(NF4[code] - value / float(scale)))
        for block, scale in zip(blocks, absmax, strict=True)
        for value in block
    ]
    plain = torch.tensor([NF4[code] for code in codes]) * absmax.repeat_interleave(64)
    pairs = [[16 * first + second] for first, second in zip(codes[::2], codes[1::2], strict=True)]
    parts = {"": torch.tensor(pairs, dtype=torch.uint8), "absmax": absmax, "quant_map": torch.tensor(NF4)} | parts
    parts["quant_state.bitsandbytes__nf4"] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    return Encoded({f"weight.{name}".rstrip("."): part for name, part in parts.items()}, plain.view_as(weight))


def torchao_int4(weight: Tensor) -> Encoded:
    """Integers from -8 to 7 around the middle of each group of 32 inputs."""
    outputs, inputs = weight.shape
    groups = weight.view(outputs, -1, 32)
    low, high = groups.amin(2), groups.amax(2)
    scales = (high - low) / 15
    zeros = low + 8 * scales
    integers = ((groups - low[..., None]) / scales[..., None]).round().clamp(0, 15) - 8
    plain = integers * scales[..., None] + zeros[..., None]
    rows = integers.view(outputs, inputs).int().tolist()
    qdata = [[(even % 16) + 16 * odd for even, odd in zip(row[::2], row[1::2], strict=True)] for row in rows]
    parts = {"qdata": torch.tensor(qdata, dtype=torch.int8), "scale": scales.T, "zero_point": zeros.T}
    return Encoded({f"_weight_{name}": part.contiguous() for name, part in parts.items()}, plain.view_as(weight))


def torchao(weight: Tensor, dtype: torch.dtype, strategy: str) -> Encoded:
    parts, plain = scaled(weight, dtype, strategy)
    return Encoded({"_weight_qdata": parts["weight"], "_weight_scale": parts["weight_scale"]}, plain)


def gptq(weight: Tensor, groups: Sequence[int], bits: int = 4, *, first_form: bool = True) -> Encoded:
    """`groups`: the group of every input."""
    outputs, inputs = weight.shape
    codes, zeros, scales, plain = _grid(weight, groups, bits)
    less = 1 if first_form else 0
    by_output = [_words([codes[i][o] for i in range(inputs)], bits) for o in range(outputs)]
    qweight = [list(words) for words in zip(*by_output, strict=True)]
    qzeros = [_words([(zero - less) % 2**bits for zero in row], bits) for row in zeros]
    g_idx = torch.tensor(groups, dtype=torch.int32)
    return Encoded({"qweight": _int32(qweight), "qzeros": _int32(qzeros), "scales": scales, "g_idx": g_idx}, plain)


def scaled(weight: Tensor, dtype: torch.dtype, strategy: str) -> Encoded:
    """Eight bits with scales of all, of an output ("channel"), or of 16 inputs of an output ("group")."""
    highest = 448 if dtype.is_floating_point else 127
    outputs, inputs = weight.shape
    groups = {"tensor": weight.view(1, -1), "channel": weight, "group": weight.view(-1, 16)}[strategy]
    scales = groups.abs().amax(1, keepdim=True) / highest
    codes = groups / scales if dtype.is_floating_point else (groups / scales).round()
    codes = codes.to(dtype)
    shape = {"tensor": (), "channel": (outputs, 1), "group": (outputs, inputs // 16)}[strategy]
    plain = (codes.float() * scales).view_as(weight)
    return Encoded({"weight": codes.view_as(weight), "weight_scale": scales.view(shape)}, plain)


def packed(weight: Tensor, bits: int = 4, *, zeros: bool = False) -> Encoded:
    """compressed-tensors with groups of 16 inputs."""
    outputs, inputs = weight.shape
    codes, zero_points, scales, plain = _grid(weight, [i // 16 for i in range(inputs)], bits)
    half, per_word = 2 ** (bits - 1), 32 // bits
    if not zeros:  # codes around half of the range
        scales = weight.view(outputs, -1, 16).abs().amax(2).T / (half - 1)
        signed = (weight / scales.T.repeat_interleave(16, 1)).round()
        codes, plain = (signed + half).int().T.tolist(), signed * scales.T.repeat_interleave(16, 1)
    words = [
        [_word([codes[per_word * w + i][o] for i in range(per_word)], bits) for w in range(inputs // per_word)]
        for o in range(outputs)
    ]
    parts = {"weight_packed": _int32(words), "weight_scale": scales.T.contiguous()}
    parts["weight_shape"] = torch.tensor([outputs, inputs])
    if zeros:
        of_outputs = [
            [_word([row[per_word * w + o] for o in range(per_word)], bits) for row in zero_points]
            for w in range(outputs // per_word)
        ]
        parts["weight_zero_point"] = _int32(of_outputs)
    return Encoded(parts, plain)


def _grid(weight: Tensor, groups: Sequence[int], bits: int) -> tuple[list[list[int]], list[list[int]], Tensor, Tensor]:
    """Codes [I][O], zero points [N][O], scales [N, O] and the weight they mean, from the range of each group."""
    outputs, inputs = weight.shape
    members = [[i for i in range(inputs) if groups[i] == n] for n in range(max(groups) + 1)]
    codes, zeros = [[0] * outputs for _ in range(inputs)], [[0] * outputs for _ in members]
    scales, plain = torch.zeros(len(members), outputs, dtype=torch.float16), [[0.0] * inputs for _ in range(outputs)]
    for n, o in product(range(len(members)), range(outputs)):
        values = {i: float(weight[o, i]) for i in members[n]}
        low, high = min(0.0, *values.values()), max(0.0, *values.values())
        scales[n, o] = (high - low) / (2**bits - 1)
        scale = float(scales[n, o])
        zeros[n][o] = min(round(-low / scale), 2**bits - 1)
        for i, value in values.items():
            codes[i][o] = min(max(round(value / scale) + zeros[n][o], 0), 2**bits - 1)
            plain[o][i] = (codes[i][o] - zeros[n][o]) * scale
    return codes, zeros, scales, torch.tensor(plain)


def _word(values: Sequence[int], bits: int) -> int:
    """The values in one word, the first in the lowest bits."""
    return sum(value << (bits * place) for place, value in enumerate(values))


def _words(values: Sequence[int], bits: int) -> list[int]:
    """The values in as many words as they need, one after another."""
    whole = _word(values, bits)
    return [whole >> start & 0xFFFFFFFF for start in range(0, bits * len(values), 32)]


def _int32(words: list[list[int]]) -> Tensor:
    return torch.tensor([[word - 2**32 if word >= 2**31 else word for word in row] for row in words], dtype=torch.int32)
