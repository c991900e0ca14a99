"""Prefix reuse over attention and recurrence together: which tokens a new sequence need not compute.

The copies that this needs are queued here as cache operations. The runner does them, in order, before the next step.
"""

from dataclasses import dataclass

from server.engine.cache.block_manager import BlockManager, extend_digests
from server.engine.cache.layout import CacheLayout
from server.engine.cache.state_manager import SnapshotKey, StateManager, snapshot_key
from server.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class ZeroRow:
    """Set a state row to zero for its new owner."""

    row: int


@dataclass(frozen=True, slots=True)
class CopyRow:
    """Copy a state row."""

    source: int
    target: int


@dataclass(frozen=True, slots=True)
class CopyBlock:
    """Copy the first `num_tokens` keys and values of a block."""

    source: int
    target: int
    num_tokens: int


CacheOp = ZeroRow | CopyRow | CopyBlock


@dataclass(frozen=True, slots=True)
class PrefixHit:
    """The first `num_tokens` tokens are cached: full blocks, and a snapshot if the model has recurrent state.

    `divergence_point` is how far the cached keys and values alone reach: there this sequence diverges from an earlier
    one.
    """

    num_tokens: int = 0
    blocks: tuple[int, ...] = ()
    snapshot: SnapshotKey | None = None
    divergence_point: int = 0


class PrefixCache:
    """Finds, restores and saves prefixes; owns no memory itself."""

    def __init__(self, layout: CacheLayout, blocks: BlockManager, states: StateManager, *, enabled: bool) -> None:
        self._layout = layout
        self._blocks = blocks
        self._states = states
        self.enabled = enabled
        self._ops: list[CacheOp] = []

    def lookup(self, sequence: Sequence) -> PrefixHit:
        """The longest reusable prefix of a waiting sequence. Valid until the next allocation."""
        limit, size = sequence.reuse_limit, self._layout.block_size
        if not self.enabled or limit < 1:
            return PrefixHit()
        extend_digests(sequence.digests, sequence.tokens, size)
        digests = sequence.digests[: limit // size + 1]
        blocks = self._blocks.match(digests[1:]) if self._layout.has_kv else []
        divergence_point = len(blocks) * size
        if not self._layout.has_state:
            return PrefixHit(divergence_point, tuple(blocks), None, divergence_point)
        if self._layout.has_kv:
            digests = digests[: len(blocks) + 1]
        position, snapshot = self._states.longest(digests, sequence.tokens, limit, size)
        return PrefixHit(position, tuple(blocks[: position // size]), snapshot, divergence_point)

    def restore(self, sequence: Sequence, hit: PrefixHit) -> None:
        """Queue the copies of a hit into the sequence's own slot and its first own block."""
        assert sequence.slot is not None
        if hit.snapshot is None:
            self._ops.append(ZeroRow(sequence.slot))
            return
        snapshot = self._states.use(hit.snapshot)
        assert snapshot is not None, "the hit was found after an allocation"
        self._ops.append(CopyRow(self._layout.num_slots + snapshot, sequence.slot))
        tail = hit.num_tokens % self._layout.block_size
        if tail and self._layout.has_kv:
            target = sequence.block_table[hit.num_tokens // self._layout.block_size]
            self._ops.append(CopyBlock(self._layout.num_blocks + snapshot, target, tail))

    def copy_state(self, source: Sequence, target: Sequence) -> None:
        """Queue the copies of a sequence's state, and of its last, partly filled block, to another sequence."""
        assert source.slot is not None
        assert target.slot is not None
        self._ops.append(CopyRow(source.slot, target.slot))
        full, tail = divmod(source.num_computed_tokens, self._layout.block_size)
        if tail and self._layout.has_kv:
            self._ops.append(CopyBlock(source.block_table[full], target.block_table[full], tail))

    def save_blocks(self, sequence: Sequence, computed_before: int) -> None:
        """Register the blocks that were filled since `computed_before` tokens were computed."""
        size, end = self._layout.block_size, sequence.num_computed_tokens
        if not self.enabled or not self._layout.has_kv or computed_before // size == end // size:
            return
        extend_digests(sequence.digests, sequence.tokens, size)
        for index in range(computed_before // size, end // size):
            self._blocks.register(sequence.block_table[index], sequence.digests[index + 1])

    def save_state(self, sequence: Sequence) -> None:
        """Queue a snapshot of a sequence's state after its computed tokens, unless there is one."""
        position, size = sequence.num_computed_tokens, self._layout.block_size
        if not self.enabled or not self._layout.num_snapshots or not position:
            return
        assert sequence.slot is not None
        extend_digests(sequence.digests, sequence.tokens, size)
        snapshot = self._states.add(snapshot_key(sequence.digests, sequence.tokens, position, size))
        if snapshot is None:
            return
        self._ops.append(CopyRow(sequence.slot, self._layout.num_slots + snapshot))
        tail = position % size
        if tail and self._layout.has_kv:
            source = sequence.block_table[position // size]
            self._ops.append(CopyBlock(source, self._layout.num_blocks + snapshot, tail))

    def without_snapshot(self, sequence: Sequence, positions: set[int]) -> list[int]:
        """The positions, ascending, that have no snapshot yet; existing snapshots are marked as used."""
        if not self.enabled or not self._layout.num_snapshots:
            return []
        extend_digests(sequence.digests, sequence.tokens, self._layout.block_size)
        return [
            position
            for position in sorted(positions)
            if self._states.use(snapshot_key(sequence.digests, sequence.tokens, position, self._layout.block_size))
            is None
        ]

    def take_ops(self) -> list[CacheOp]:
        """The queued operations, which the caller must do before the next step."""
        ops, self._ops = self._ops, []
        return ops

    def forget(self) -> None:
        """Drop all prefixes and queued operations: a step has failed."""
        self._ops.clear()
        self._blocks.forget()
        self._states.forget()
