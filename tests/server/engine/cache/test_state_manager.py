"""StateManager: slots and snapshots are never lost or used twice, and the least recently used snapshot is evicted."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from server.engine.cache.block_manager import extend_digests, root_digest
from server.engine.cache.state_manager import SnapshotKey, StateManager, snapshot_key

BLOCK = 4
TOKENS = tuple(range(20))
DIGESTS = [root_digest()]
extend_digests(DIGESTS, TOKENS, BLOCK)


def key_at(position: int) -> SnapshotKey:
    return snapshot_key(DIGESTS, TOKENS, position, BLOCK)


class StateMachine(RuleBasedStateMachine):
    """Random slots and snapshots, beside a list of snapshots in the order of their use."""

    def __init__(self) -> None:
        super().__init__()
        self.manager = StateManager(3, 4)
        self.slots: list[int] = []
        self.used: list[int] = []  # positions, least recently used first
        self.place: dict[int, int] = {}

    @precondition(lambda self: self.manager.num_free_slots)
    @rule()
    def allocate_slot(self) -> None:
        self.slots.append(self.manager.allocate_slot())

    @precondition(lambda self: self.slots)
    @rule(data=st.data())
    def free_slot(self, data: st.DataObject) -> None:
        self.manager.free_slot(self.slots.pop(data.draw(st.integers(0, len(self.slots) - 1))))

    @rule(position=st.integers(1, 20))
    def add(self, position: int) -> None:
        place = self.manager.add(key_at(position))
        assert (place is None) == (position in self.used)
        if position in self.used:
            self.used.remove(position)
        else:
            if len(self.used) == 4:
                del self.place[self.used.pop(0)]
            assert place not in self.place.values()
            self.place[position] = place  # type: ignore[assignment]
        self.used.append(position)

    @rule(limit=st.integers(0, 20), blocks=st.integers(0, 5))
    def find(self, limit: int, blocks: int) -> None:
        reachable = [p for p in self.used if p <= limit and p // BLOCK <= blocks]
        position, key = self.manager.longest(DIGESTS[: blocks + 1], TOKENS, limit, BLOCK)
        assert position == max(reachable, default=0)
        if key is not None:
            assert self.manager.use(key) == self.place[position]
            self.used.remove(position)
            self.used.append(position)

    @rule()
    def forget(self) -> None:
        self.manager.forget()
        self.used, self.place = [], {}

    @invariant()
    def nothing_is_lost(self) -> None:
        manager = self.manager
        assert sorted(self.slots + manager._free_slots) == [0, 1, 2]
        assert sorted([*self.place.values(), *manager._free_snapshots]) == [0, 1, 2, 3]
        assert manager.snapshots_used == len(self.used)
        assert manager._digests.total() == len(self.used)


TestStateMachine = StateMachine.TestCase


def test_a_snapshot_belongs_to_its_exact_tokens() -> None:
    manager = StateManager(1, 4)
    manager.add(key_at(6))
    other = (*TOKENS[:5], 99, *TOKENS[6:])
    digests = [root_digest()]
    extend_digests(digests, other, BLOCK)
    assert manager.longest(DIGESTS, TOKENS, 10, BLOCK)[0] == 6
    assert manager.longest(digests, other, 10, BLOCK) == (0, None)


def test_without_room_no_snapshot_is_kept() -> None:
    manager = StateManager(1, 0)
    assert manager.add(key_at(3)) is None
    assert manager.longest(DIGESTS, TOKENS, 20, BLOCK) == (0, None)


def test_freeing_a_slot_twice_is_noticed() -> None:
    manager = StateManager(2, 0)
    slot = manager.allocate_slot()
    manager.free_slot(slot)
    with pytest.raises(AssertionError, match="freed twice"):
        manager.free_slot(slot)
