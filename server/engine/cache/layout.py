"""How a budget of bytes is divided into blocks, slots and snapshots, and how large it is by default."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from model.cache import CacheSpec, StateSpec, TokenSpec, bytes_per_block, bytes_per_row
from server.engine.cgroups import free_memory
from server.engine.config import EngineConfig

DEFAULT_CACHE_BYTES = 2**30
DEFAULT_MEMORY_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """How the budget is divided. Models without attention have no blocks, models without recurrence no snapshots.

    Snapshot i is state row `num_slots + i`; the keys and values of its last, partly filled block are in block
    `num_blocks + i`.
    """

    block_size: int
    num_blocks: int
    num_slots: int
    num_snapshots: int
    has_kv: bool
    has_state: bool

    @property
    def total_blocks(self) -> int:
        return self.num_blocks + (self.num_snapshots if self.has_kv else 0)

    @property
    def total_rows(self) -> int:
        return self.num_slots + self.num_snapshots


def plan_cache_layout(config: EngineConfig, specs: Sequence[CacheSpec], dtype: torch.dtype) -> CacheLayout:
    """Divide the budget. Raises ValueError when it cannot hold one sequence of `max_model_len` tokens."""
    budget = config.cache_bytes if config.cache_bytes is not None else default_cache_bytes()
    has_kv = any(isinstance(spec, TokenSpec) for spec in specs)
    has_state = any(isinstance(spec, StateSpec) for spec in specs)
    block, row = bytes_per_block(specs, config.block_size, dtype), bytes_per_row(specs)
    fewest = -(-config.max_model_len // config.block_size) if has_kv else 0
    room = budget - config.max_num_seqs * row - fewest * block
    if room < 0:
        raise ValueError(
            f"cache_bytes is {budget}, but {config.max_num_seqs} state slots and one sequence of "
            f"{config.max_model_len} tokens take {budget - room} bytes: raise cache_bytes, or lower max_num_seqs or "
            "max_model_len"
        )
    num_snapshots = 0
    if has_state and config.prefix_caching:
        num_snapshots = min(int(budget * config.snapshot_share), room) // (block + row)
    blocks_left = (room - num_snapshots * (block + row)) // block if has_kv else 0
    return CacheLayout(config.block_size, fewest + blocks_left, config.max_num_seqs, num_snapshots, has_kv, has_state)


def default_cache_bytes() -> int:
    """1 GiB, or a fifth of the available memory if that is less."""
    return min(DEFAULT_CACHE_BYTES, int(available_memory() * DEFAULT_MEMORY_SHARE))


def available_memory() -> int:
    """Bytes this process may still allocate: the free memory, or what limits of containers and services leave of it."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    return min([free, *free_memory()])
