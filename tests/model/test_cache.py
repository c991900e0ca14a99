"""The memory behind the layers: what is not used takes none."""

from pathlib import Path

import pytest
import torch

from model.cache import CacheStorage, KVSpec, StateSpec

MIB = 2**20
STATM = Path("/proc/self/statm")


def storage(num_rows: int, num_blocks: int = 1) -> CacheStorage:
    """A MiB of state a row; a KiB of keys and one of values a block."""
    specs = [StateSpec((("state", (512, 512)),)), KVSpec(num_kv_heads=1, head_dim=16)]
    return CacheStorage(specs, num_blocks=num_blocks, block_size=16, num_rows=num_rows, dtype=torch.float32)


def resident() -> int:
    """Bytes of this process in memory."""
    return int(STATM.read_text().split()[1]) * 4096


@pytest.mark.skipif(not STATM.exists(), reason="reads resident memory where Linux shows it")
def test_memory_is_taken_when_it_is_written() -> None:
    before = resident()
    cache = storage(num_rows=256, num_blocks=64 * 1024)
    assert resident() - before < 16 * MIB
    cache.state(0, "state")[:128] = 1.0
    assert 128 * MIB <= resident() - before < 160 * MIB


def test_rows_are_zero_until_they_are_written_and_when_they_are_zeroed() -> None:
    cache = storage(num_rows=3)
    state_RXY = cache.state(0, "state")
    assert not state_RXY.any()
    state_RXY[1] = 7.0
    cache.copy_row(1, 2)
    cache.zero_row(1)
    assert [bool(row.any()) for row in state_RXY] == [False, False, True]


def test_a_cache_without_rows_or_state_is_empty() -> None:
    assert storage(num_rows=0).state(0, "state").shape == (0, 512, 512)
