"""Sequences of many lengths as padded batches, similar lengths together.

Shapes: B rows, L positions.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

CHUNK = 16  # the training form of the recurrence works on whole chunks
BATCH_TOKENS = 4096


def groups(lengths: Sequence[int], batch_tokens: int = BATCH_TOKENS) -> Iterator[list[int]]:
    """Yield indices of sequences that share a batch of at most `batch_tokens` with padding, the shortest first."""
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: (lengths[index], index)):
        if group and (len(group) + 1) * padded_length(lengths[index]) > batch_tokens:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def padded_length(length: int) -> int:
    return -(-length // CHUNK) * CHUNK


def rectangle(rows: Sequence[Sequence[int]], fill: int = 0) -> Tensor:
    """Rows side by side, filled up to whole chunks: int64 [B, L]."""
    length = padded_length(max(map(len, rows)))
    return torch.tensor([[*row, *[fill] * (length - len(row))] for row in rows])
