"""Settings of the engine, and how a budget of bytes is divided into blocks, slots and snapshots."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from model.cache import CacheSpec, StateSpec, TokenSpec, bytes_per_block, bytes_per_row
from server.engine.routing.adaptive_experts import ExpertRange

DEFAULT_CACHE_BYTES = 2**30
DEFAULT_MEMORY_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Settings of one engine. Lengths are in tokens.

    At most `max_num_seqs` sequences run at once, each step computes at most `max_num_batched_tokens`, and `max_queue`
    more requests may wait, with `max_queue_tokens` prompt tokens and an expected wait of `max_queue_wait` seconds.
    `cache_bytes` is the budget for keys, values and recurrent state (None: 1 GiB, or a fifth of the available memory if
    that is less). At most `snapshot_share` of it is for snapshots of recurrent state, which are taken every
    `snapshot_interval` tokens of a prompt and at the boundaries that requests name. `max_prefill_chunk` limits how many
    tokens of one prompt a step computes.
    While others decode, prompts of more than `long_prefill_token_threshold` tokens are computed in chunks that make a
    step at most about `max_decode_slowdown` times as long as a pure decode step (None: no such limit).
    `adaptive_experts` lets new sequences have fewer experts per token while many requests wait.
    `seed` makes the random seeds reproducible that requests without a seed get.
    """

    max_model_len: int
    eos_token_ids: frozenset[int] = frozenset()
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 1024
    max_queue: int = 256
    max_queue_tokens: int = 2**20
    max_queue_wait: float = 10.0
    block_size: int = 16
    cache_bytes: int | None = None
    snapshot_share: float = 0.25
    snapshot_interval: int = 64
    prefix_caching: bool = True
    max_prefill_chunk: int | None = None
    long_prefill_token_threshold: int = 512
    max_decode_slowdown: float | None = 2.0
    adaptive_experts: ExpertRange | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a setting with which nothing could run."""
        for name in ("max_model_len", "max_num_seqs", "max_queue_tokens", "block_size", "snapshot_interval"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give 1 or more")
        if self.max_queue < 0:
            raise ValueError(f"max_queue is {self.max_queue}: give 0 (nothing waits) or more")
        if self.max_queue_wait <= 0:
            raise ValueError(f"max_queue_wait is {self.max_queue_wait}: give more than 0 seconds")
        if not 0 <= self.snapshot_share < 1:
            raise ValueError(f"snapshot_share is {self.snapshot_share}: give a part of the budget, from 0 to below 1")
        if self.max_decode_slowdown is not None and self.max_decode_slowdown <= 1:
            raise ValueError(
                f"max_decode_slowdown is {self.max_decode_slowdown}: give more than 1, or None for no limit"
            )
        if self.max_prefill_chunk is not None and self.max_prefill_chunk < 1:
            raise ValueError(f"max_prefill_chunk is {self.max_prefill_chunk}: give 1 or more, or None for no limit")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens is {self.max_num_batched_tokens}, less than max_num_seqs "
                f"({self.max_num_seqs}): every running sequence needs a token a step; raise the one or lower the other"
            )


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
    """Bytes this process may still allocate: the machine's free memory, or less if its container has a lower limit."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        free = min(free, max(int(limit.read_text()) - int(used.read_text()), 0))
    return free
