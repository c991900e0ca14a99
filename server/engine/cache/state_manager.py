"""Rows of recurrent state: slots, one per running sequence, and immutable snapshots of prefixes.

Recurrent state cannot be cut back to a shorter prefix, so a prefix can be reused only where a snapshot was taken. A
snapshot may stand at any position. It is identified by the digest of the full blocks before it and the tokens after
them.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SnapshotKey:
    """A prefix: the digest of its full blocks, and the tokens after them, fewer than a block."""

    digest: bytes
    tail: tuple[int, ...]


def snapshot_key(digests: Sequence[bytes], token_ids: Sequence[int], position: int, block_size: int) -> SnapshotKey:
    """The key of the first `position` tokens; `digests` starts with the root digest."""
    full = position // block_size
    return SnapshotKey(digests[full], tuple(token_ids[full * block_size : position]))


class StateManager:
    """Free slots, and snapshots in order of last use."""

    def __init__(self, num_slots: int, num_snapshots: int) -> None:
        self.num_snapshots = num_snapshots
        self._free_slots = list(range(num_slots - 1, -1, -1))
        self._free_snapshots = list(range(num_snapshots - 1, -1, -1))
        self._snapshots: dict[SnapshotKey, int] = {}  # least recently used first
        self._digests: Counter[bytes] = Counter()  # number of snapshots in the block after each digest

    @property
    def num_free_slots(self) -> int:
        return len(self._free_slots)

    @property
    def snapshots_used(self) -> int:
        return len(self._snapshots)

    def allocate_slot(self) -> int:
        """A row for a running sequence, with old content in it. Check `num_free_slots` first."""
        return self._free_slots.pop()

    def free_slot(self, slot: int) -> None:
        assert slot not in self._free_slots, "a slot was freed twice"
        self._free_slots.append(slot)

    def longest(
        self, digests: Sequence[bytes], token_ids: Sequence[int], limit: int, block_size: int
    ) -> tuple[int, SnapshotKey | None]:
        """The longest prefix of at most `limit` tokens with a snapshot, whose full blocks are all in `digests`."""
        for full in range(min(len(digests) - 1, limit // block_size), -1, -1):
            if digests[full] not in self._digests:
                continue
            last = min(limit, (full + 1) * block_size - 1)
            for position in range(last, full * block_size - 1, -1):
                key = snapshot_key(digests, token_ids, position, block_size)
                if position and key in self._snapshots:
                    return position, key
        return 0, None

    def use(self, key: SnapshotKey) -> int | None:
        """The snapshot of that prefix, marked as used; None if there is none."""
        snapshot = self._snapshots.pop(key, None)
        if snapshot is not None:
            self._snapshots[key] = snapshot
        return snapshot

    def add(self, key: SnapshotKey) -> int | None:
        """A row for a new snapshot; may evict the least recently used one. None if it exists or there are no rows."""
        if not self.num_snapshots or self.use(key) is not None:
            return None
        snapshot = self._free_snapshots.pop() if self._free_snapshots else self._evict()
        self._snapshots[key] = snapshot
        self._digests[key.digest] += 1
        return snapshot

    def forget(self) -> None:
        """Drop all snapshots."""
        self._free_snapshots.extend(self._snapshots.values())
        self._snapshots.clear()
        self._digests.clear()

    def _evict(self) -> int:
        key = next(iter(self._snapshots))
        self._digests[key.digest] -= 1
        if not self._digests[key.digest]:
            del self._digests[key.digest]
        return self._snapshots.pop(key)
