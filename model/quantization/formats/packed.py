"""Unpacks small unsigned integers from 32-bit words, as AWQ and GPTQ store codes and zero points."""

from collections.abc import Sequence

import torch
from torch import Tensor


def unpack(words: Tensor, bits: int, places: Sequence[int] | None = None) -> Tensor:
    """The integers of all words: int32 [..., W] -> [..., W * 32 // bits].

    `places[j]` is the position of the j-th integer in its word, counted from the lowest bits (default: in order).
    """
    if 32 % bits:
        return _unpack_stream(words, bits)
    shifts = bits * torch.tensor(places or range(32 // bits), dtype=torch.int32)
    return ((words[..., None] >> shifts) & (2**bits - 1)).flatten(-2)


def _unpack_stream(words: Tensor, bits: int) -> Tensor:
    """Integers that lie one after another in groups of `bits` words, some of them across the end of a word."""
    groups = words.unflatten(-1, (-1, bits)).long() & 0xFFFFFFFF
    starts = bits * torch.arange(32)
    pairs = groups | torch.nn.functional.pad(groups[..., 1:], (0, 1)) << 32
    return ((pairs[..., starts // 32] >> starts % 32) & (2**bits - 1)).int().flatten(-2)
