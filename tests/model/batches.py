"""Batches for tests: a sequence served in one piece or in pieces, on a cache of its own."""

from collections.abc import Sequence

import torch
from torch import Tensor

from model.batch import ForwardBatch
from model.cache import CacheStorage
from model.network import CausalLM

BLOCK = 16


def cache_for(network: CausalLM, *, sequences: int = 1, tokens: int = 256) -> CacheStorage:
    """Room for `sequences` sequences of up to `tokens` tokens; sequence s owns row s and a run of blocks."""
    blocks = sequences * -(-tokens // BLOCK)
    return CacheStorage(
        network.cache_specs(), num_blocks=blocks, block_size=BLOCK, num_rows=sequences, dtype=network.dtype
    )


def batch_of(
    cache: CacheStorage, pieces: Sequence[tuple[int, int, Sequence[int]]], *, tokens: int = 256
) -> ForwardBatch:
    """A step of (sequence, first position, token ids) pieces."""
    per_sequence = -(-tokens // BLOCK)
    starts = [0]
    for _, _, ids in pieces:
        starts.append(starts[-1] + len(ids))
    return ForwardBatch(
        token_ids_T=torch.tensor([token for _, _, ids in pieces for token in ids]),
        positions_T=torch.tensor([first + i for _, first, ids in pieces for i in range(len(ids))]),
        query_starts_S1=torch.tensor(starts, dtype=torch.int32),
        block_table_SB=torch.tensor(
            [[s * per_sequence + i for i in range(per_sequence)] for s, _, _ in pieces], dtype=torch.int32
        ),
        state_rows_S=torch.tensor([s for s, _, _ in pieces], dtype=torch.int32),
        cache=cache,
    )


def whole_batch(network: CausalLM, ids_L: Tensor) -> ForwardBatch:
    """One sequence from its first token, in one step."""
    return batch_of(cache_for(network), [(0, 0, ids_L.tolist())])
