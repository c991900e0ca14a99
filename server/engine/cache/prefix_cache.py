"""Prefix reuse over attention and recurrence together: what a new sequence need not compute again.

Also what must be copied for it. Copies are ordered here and done by the runner, in order, before the next step.
"""

from dataclasses import dataclass

from server.engine.cache.block_manager import BlockManager, extend_digests
from server.engine.cache.state_manager import SnapshotKey, StateManager, snapshot_key
from server.engine.config import CacheLayout
from server.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class ZeroRow:
    """Clear a state row for its new owner."""

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
    """The first `num_tokens` tokens are there: full blocks, and the snapshot if the model has recurrent state.

    `divergence_point` is how far keys and values alone would have reached: where this sequence and an earlier one part.
    """

    num_tokens: int = 0
    blocks: tuple[int, ...] = ()
    snapshot: SnapshotKey | None = None
    divergence_point: int = 0


class PrefixCache:
    """Finds, restores and remembers prefixes; owns nothing itself."""

    def __init__(self, layout: CacheLayout, blocks: BlockManager, states: StateManager, *, enabled: bool) -> None:
        self._layout = layout
        self._blocks = blocks
        self._states = states
        self.enabled = enabled
        self.pending: list[CacheOp] = []

    def lookup(self, sequence: Sequence) -> PrefixHit:
        """The longest reusable prefix of a waiting sequence. Safe until the next allocation."""
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
        """Order the copies that put a hit into the sequence's own slot and its first own block."""
        assert sequence.slot is not None
        if hit.snapshot is None:
            self.pending.append(ZeroRow(sequence.slot))
            return
        snapshot = self._states.use(hit.snapshot)
        assert snapshot is not None, "the hit was found after an allocation"
        self.pending.append(CopyRow(self._layout.num_slots + snapshot, sequence.slot))
        tail = hit.num_tokens % self._layout.block_size
        if tail and self._layout.has_kv:
            target = sequence.block_table[hit.num_tokens // self._layout.block_size]
            self.pending.append(CopyBlock(self._layout.num_blocks + snapshot, target, tail))

    def copy_state(self, source: Sequence, target: Sequence) -> None:
        """Order the copies of a sequence's state, and of its last, partly filled block, to another's own."""
        assert source.slot is not None
        assert target.slot is not None
        self.pending.append(CopyRow(source.slot, target.slot))
        full, tail = divmod(source.num_computed_tokens, self._layout.block_size)
        if tail and self._layout.has_kv:
            self.pending.append(CopyBlock(source.block_table[full], target.block_table[full], tail))

    def remember_blocks(self, sequence: Sequence, computed_before: int) -> None:
        """Register the blocks that were filled since `computed_before` tokens were computed."""
        size, end = self._layout.block_size, sequence.num_computed_tokens
        if not self.enabled or not self._layout.has_kv or computed_before // size == end // size:
            return
        extend_digests(sequence.digests, sequence.tokens, size)
        for index in range(computed_before // size, end // size):
            self._blocks.register(sequence.block_table[index], sequence.digests[index + 1])

    def remember_state(self, sequence: Sequence) -> None:
        """Order a snapshot of a sequence's state after its computed tokens, unless there is one."""
        position, size = sequence.num_computed_tokens, self._layout.block_size
        if not self.enabled or not self._layout.num_snapshots or not position:
            return
        assert sequence.slot is not None
        extend_digests(sequence.digests, sequence.tokens, size)
        snapshot = self._states.add(snapshot_key(sequence.digests, sequence.tokens, position, size))
        if snapshot is None:
            return
        self.pending.append(CopyRow(sequence.slot, self._layout.num_slots + snapshot))
        tail = position % size
        if tail and self._layout.has_kv:
            source = sequence.block_table[position // size]
            self.pending.append(CopyBlock(source, self._layout.num_blocks + snapshot, tail))

    def missing(self, sequence: Sequence, positions: set[int]) -> list[int]:
        """Those of the positions, ascending, that have no snapshot yet; the others count as used."""
        if not self.enabled or not self._layout.num_snapshots:
            return []
        extend_digests(sequence.digests, sequence.tokens, self._layout.block_size)
        return [
            position
            for position in sorted(positions)
            if self._states.use(snapshot_key(sequence.digests, sequence.tokens, position, self._layout.block_size))
            is None
        ]

    def take_pending(self) -> list[CacheOp]:
        """The ordered copies so far; they are the caller's to do now."""
        ops, self.pending = self.pending, []
        return ops

    def forget(self) -> None:
        """Trust nothing that was remembered: after a failed step."""
        self.pending.clear()
        self._blocks.forget()
        self._states.forget()
