"""BlockManager: no block is lost, owned twice by accident, or found under a digest it no longer holds."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from server.engine.cache.block_manager import BlockManager, block_digest, extend_digests, root_digest

NUM_BLOCKS = 7
CHAINS = {length: [block_digest(root_digest(), (length, i)) for i in range(4)] for length in range(3)}


class BlockMachine(RuleBasedStateMachine):
    """Owners take and give back blocks at random; `content` is what a block really holds."""

    def __init__(self) -> None:
        super().__init__()
        self.manager = BlockManager(NUM_BLOCKS)
        self.owners: list[list[int]] = []
        self.content: dict[int, bytes] = {}

    @rule(count=st.integers(0, NUM_BLOCKS), chain=st.sampled_from(sorted(CHAINS)))
    def allocate_beside_shared(self, count: int, chain: int) -> None:
        shared = self.manager.match(CHAINS[chain])
        assert [self.content.get(block) for block in shared] == CHAINS[chain][: len(shared)]
        if not self.manager.can_allocate(count, shared=shared):
            return
        self.manager.share(shared)
        new = self.manager.allocate(count)
        assert len({*shared, *new}) == len(shared) + count
        owned = {block for blocks in self.owners for block in blocks}
        assert not owned & set(new)
        for block in new:
            self.content.pop(block, None)
        self.owners.append(shared + new)

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        self.manager.free(self.owners.pop(data.draw(st.integers(0, len(self.owners) - 1))))

    @precondition(lambda self: any(self.owners))
    @rule(data=st.data(), chain=st.sampled_from(sorted(CHAINS)))
    def fill_and_register(self, data: st.DataObject, chain: int) -> None:
        blocks = data.draw(st.sampled_from([blocks for blocks in self.owners if blocks]))
        for block, digest in zip(blocks, CHAINS[chain], strict=False):
            if block not in self.content:
                self.content[block] = digest
                self.manager.register(block, digest)

    @rule()
    def forget(self) -> None:
        self.manager.forget()
        assert all(self.manager.match(chain) == [] for chain in CHAINS.values())

    @invariant()
    def every_block_is_accounted_for(self) -> None:
        manager = self.manager
        owned = [block for blocks in self.owners for block in blocks]
        assert manager._refs == [owned.count(block) for block in range(NUM_BLOCKS)]
        assert sorted([*set(owned), *manager._blank, *manager._reusable]) == list(range(NUM_BLOCKS))
        assert manager.num_used == len(set(owned))
        assert {block: digest for digest, block in manager._blocks.items()} == manager._digests
        assert not set(manager._digests) & set(manager._blank)


TestBlockMachine = BlockMachine.TestCase


def test_freed_prefix_is_found_until_its_blocks_are_reused() -> None:
    manager = BlockManager(3)
    blocks = manager.allocate(2)
    digests = [root_digest()]
    extend_digests(digests, range(8), 4)
    for block, digest in zip(blocks, digests[1:], strict=True):
        manager.register(block, digest)
    manager.free(blocks)
    assert manager.match(digests[1:]) == blocks
    manager.allocate(2)  # the blank block, then the end of the prefix, before its start
    assert manager.match(digests[1:]) == blocks[:1]
    manager.allocate(1)
    assert manager.match(digests[1:]) == []


def test_shared_blocks_that_are_free_do_not_count_as_room() -> None:
    manager = BlockManager(2)
    blocks = manager.allocate(1)
    manager.register(blocks[0], b"digest")
    manager.free(blocks)
    assert manager.can_allocate(2)
    assert not manager.can_allocate(2, shared=blocks)
    assert manager.can_allocate(1, shared=blocks)
    assert not manager.can_allocate(1, shared=blocks, spare=1)


def test_digest_depends_on_every_token_before() -> None:
    first = [root_digest()]
    second = [root_digest()]
    extend_digests(first, [1, 2, 3, 4, 5, 6], 2)
    extend_digests(second, [1, 9, 3, 4, 5, 6], 2)
    assert len(first) == 4
    assert not set(first[1:]) & set(second[1:])


def test_digest_depends_on_the_cache_salt() -> None:
    first, second, again = ([root_digest(salt)] for salt in ("one", "two", "one"))
    for digests in (first, second, again):
        extend_digests(digests, range(8), 4)
    assert first == again
    assert not set(first) & set(second)


def test_digests_grow_with_the_tokens() -> None:
    grown = [root_digest()]
    whole = [root_digest()]
    for length in range(20):
        extend_digests(grown, range(length), 4)
    extend_digests(whole, range(19), 4)
    assert grown == whole


def test_freeing_twice_is_noticed() -> None:
    manager = BlockManager(1)
    blocks = manager.allocate(1)
    manager.free(blocks)
    with pytest.raises(AssertionError, match="freed twice"):
        manager.free(blocks)


def test_shared_blocks_that_somebody_owns_take_no_room() -> None:
    manager = BlockManager(2)
    blocks = manager.allocate(1)
    manager.register(blocks[0], b"digest")
    assert manager.can_allocate(1, shared=blocks)
    assert not manager.can_allocate(2, shared=blocks)


def test_digests_are_long_enough_that_none_are_alike_by_chance() -> None:
    assert len(block_digest(root_digest(), (1, 2, 3, 4))) >= 16
