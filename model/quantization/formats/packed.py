"""Unpacks small unsigned integers from 32-bit words, as AWQ and GPTQ store codes and zero points."""

from collections.abc import Sequence

import torch
from torch import Tensor


def unpack(words: Tensor, bits: int, places: Sequence[int] | None = None) -> Tensor:
    """The integers of all words: int32 [..., W] -> [..., W * 32 // bits].

    `places[j]` is the position of the j-th integer in its word, counted from the lowest bits (default: in order).
    """
    shifts = bits * torch.tensor(places or range(32 // bits), dtype=torch.int32)
    return ((words[..., None] >> shifts) & (2**bits - 1)).flatten(-2)
