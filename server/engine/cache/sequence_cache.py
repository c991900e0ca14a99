"""What a sequence owns while it runs: blocks for keys and values, a slot for its state, and what others may reuse."""

from server.engine.cache.block_manager import BlockManager
from server.engine.cache.prefix_cache import PrefixCache, PrefixHit
from server.engine.cache.state_manager import StateManager
from server.engine.config import CacheLayout, EngineConfig
from server.engine.sequence import Sequence


class SequenceCache:
    """Gives memory to sequences and takes it back. Copies that this needs are ordered in `prefixes`."""

    def __init__(self, config: EngineConfig, layout: CacheLayout) -> None:
        self._layout = layout
        self._snapshot_interval = config.snapshot_interval
        self._prefix_caching = config.prefix_caching
        self.clear()

    def clear(self) -> None:
        """Everything is free and nothing remembered, whatever was before."""
        self.blocks = BlockManager(self._layout.num_blocks)
        self.states = StateManager(self._layout.num_slots, self._layout.num_snapshots)
        self.prefixes = PrefixCache(self._layout, self.blocks, self.states, enabled=self._prefix_caching)

    def admit(self, sequence: Sequence, spare: int) -> bool:
        """Give a waiting sequence a slot and its blocks, if there is room and `spare` blocks stay free."""
        if not self.states.num_free_slots:
            return False
        hit = self.prefixes.lookup(sequence)
        needed = self._blocks_for(len(sequence.tokens)) - len(hit.blocks)
        if self._layout.has_kv and not self.blocks.can_allocate(needed, shared=hit.blocks, spare=spare):
            return False
        self.blocks.share(hit.blocks)
        sequence.block_table = [*hit.blocks, *self.blocks.allocate(needed)]
        sequence.slot = self.states.allocate_slot()
        self.prefixes.restore(sequence, hit)
        sequence.num_computed_tokens = hit.num_tokens
        sequence.prefill_end = len(sequence.tokens)
        sequence.snapshot_positions = self._snapshot_positions(sequence, hit)
        return True

    def needs_block(self, sequence: Sequence) -> bool:
        """Whether the next token of a running sequence finds its blocks full."""
        return self._layout.has_kv and len(sequence.tokens) > len(sequence.block_table) * self._layout.block_size

    def extend(self, sequence: Sequence) -> None:
        """One more block. There must be a free one."""
        sequence.block_table += self.blocks.allocate(1)

    def copy(self, parent: Sequence, child: Sequence) -> bool:
        """Share the full blocks, copy the state and the block after them; false if there is no room."""
        full, tail = divmod(parent.num_computed_tokens, self._layout.block_size)
        own = int(tail > 0) if self._layout.has_kv else 0
        if not self.states.num_free_slots or (own and not self.blocks.can_allocate(own)):
            return False
        child.slot = self.states.allocate_slot()
        if self._layout.has_kv:
            self.blocks.share(parent.block_table[:full])
            child.block_table = [*parent.block_table[:full], *self.blocks.allocate(own)]
        self.prefixes.copy_state(parent, child)
        return True

    def advance(self, sequence: Sequence) -> None:
        """Enter the tokens that a step computed, and remember what others may reuse of them."""
        before = sequence.num_computed_tokens
        sequence.num_computed_tokens += sequence.num_scheduled_tokens
        sequence.num_scheduled_tokens = 0
        self.prefixes.remember_blocks(sequence, before)
        if sequence.snapshot_positions and sequence.snapshot_positions[0] == sequence.num_computed_tokens:
            del sequence.snapshot_positions[0]
            self.prefixes.remember_state(sequence)

    def release(self, sequence: Sequence) -> None:
        """Take back all that a running sequence owns."""
        assert sequence.slot is not None
        self.blocks.free(sequence.block_table)
        self.states.free_slot(sequence.slot)
        sequence.block_table, sequence.slot = [], None

    def _blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self._layout.block_size) if self._layout.has_kv else 0

    def _snapshot_positions(self, sequence: Sequence, hit: PrefixHit) -> list[int]:
        """Where this prefill is to be remembered: where others are likely to part from it."""
        end, interval = sequence.prefill_end, self._snapshot_interval
        positions = set(range(interval, end + 1, interval)) | set(sequence.request.boundaries)
        if self._layout.has_kv:
            positions.add(hit.divergence_point)
        if sequence.sampling.prompt_logprobs:
            positions -= {sequence.first_scored}  # a scored token needs the logits of the one before it
            positions.add(sequence.first_scored - 1)
        if sequence.sampling.max_tokens:
            positions.add(sequence.prompt_len)
        return self.prefixes.missing(sequence, {p for p in positions if hit.num_tokens < p <= end})
