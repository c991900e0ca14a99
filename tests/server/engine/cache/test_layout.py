"""A budget of bytes is divided into blocks, slots and snapshots, or refused with a reason."""

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


def test_the_cache_fits_the_limit_of_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout_module, "free_memory", lambda: [2**62, 5000])
    assert available_memory() == 5000
    assert default_cache_bytes() == 1000
