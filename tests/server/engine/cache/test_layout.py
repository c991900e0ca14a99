"""A budget of bytes is divided into blocks, slots and snapshots, or refused with a reason."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.cache import CacheSpec, CacheStorage, KVSpec, StateSpec, bytes_per_block, bytes_per_row
from server.engine.cache import layout as layout_module
from server.engine.cache.layout import CacheLayout, available_memory, default_cache_bytes, plan_cache_layout
from server.engine.config import EngineConfig

KV, STATE = KVSpec(num_kv_heads=2, head_dim=8), StateSpec((("conv", (3, 5)), ("delta", (4, 4))))
KINDS: dict[str, list[CacheSpec]] = {"hybrid": [STATE, KV, STATE], "attention": [KV], "recurrence": [STATE]}


def bytes_of(layout: CacheLayout, specs: list[CacheSpec]) -> int:
    storage = CacheStorage(
        specs,
        num_blocks=layout.total_blocks,
        block_size=layout.block_size,
        num_rows=layout.total_rows,
        dtype=torch.bfloat16,
    )
    tensors = [*storage._keys.values(), *storage._values.values(), *storage._state_tensors()]
    return sum(tensor.nbytes for tensor in tensors)


@given(
    kind=st.sampled_from(sorted(KINDS)),
    budget=st.integers(0, 2**19),
    share=st.floats(0, 0.99),
    seqs=st.integers(1, 9),
    length=st.integers(1, 200),
    caching=st.booleans(),
)
def test_the_budget_is_kept_and_used(
    kind: str, budget: int, share: float, seqs: int, length: int, caching: bool
) -> None:
    specs = KINDS[kind]
    config = EngineConfig(
        length, max_num_seqs=seqs, cache_bytes=budget, snapshot_share=share, prefix_caching=caching, block_size=4
    )
    block, row = bytes_per_block(specs, 4, torch.bfloat16), bytes_per_row(specs)
    if budget < seqs * row + (-(-length // 4) * block):
        with pytest.raises(ValueError, match="raise cache_bytes"):
            plan_cache_layout(config, specs, torch.bfloat16)
        return
    layout = plan_cache_layout(config, specs, torch.bfloat16)
    used = bytes_of(layout, specs)
    assert used <= budget
    assert layout.num_slots == seqs
    if layout.has_kv:
        assert layout.num_blocks * 4 >= length, "one sequence of the longest kind must fit"
        assert budget - used < block + row
    assert layout.num_snapshots * (block + row) <= budget * share
    assert layout.num_snapshots == 0 or (caching and layout.has_state)


def test_the_default_budget_is_sensible() -> None:
    assert 0 < default_cache_bytes() <= 2**30
    assert default_cache_bytes() <= available_memory()


def test_the_page_cache_of_a_container_counts_as_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernel drops the pages of files, such as weights just read, before it refuses memory."""
    monkeypatch.setattr(layout_module, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("990\n")
    assert available_memory() == 10
    (tmp_path / "memory.stat").write_text("anon 90\nfile 920\ninactive_file 600\nactive_file 250\nshmem 70\n")
    assert available_memory() == 10 + 600 + 250
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory() > 1000
