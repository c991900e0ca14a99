"""The cache memory of sequences: blocks for keys and values, a slot for recurrent state, and prefixes to reuse."""

from dataclasses import dataclass

from server.engine.cache.block_manager import BlockManager
from server.engine.cache.layout import CacheLayout
from server.engine.cache.prefix_cache import CacheOp, PrefixCache, PrefixHit
from server.engine.cache.state_manager import StateManager
from server.engine.config import EngineConfig
from server.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class CacheUsage:
    """How many blocks and slots running sequences own, and how many snapshots are kept for reuse."""

    kv_blocks: int
    state_slots: int
    snapshots: int


class SequenceCache:
    """Allocates and frees the memory of sequences. Copies that this needs are queued as operations for the runner."""

    def __init__(self, config: EngineConfig, layout: CacheLayout) -> None:
        self._layout = layout
        self._snapshot_interval = config.snapshot_interval
        self.prefix_caching = config.prefix_caching
        self.clear()

    def clear(self) -> None:
        """Free all memory and forget all prefixes, whatever state they are in."""
        self.blocks = BlockManager(self._layout.num_blocks)
        self.states = StateManager(self._layout.num_slots, self._layout.num_snapshots)
        self._prefixes = PrefixCache(self._layout, self.blocks, self.states, enabled=self.prefix_caching)

    @property
    def has_free_slot(self) -> bool:
        return self.states.num_free_slots > 0

    def admit(self, sequence: Sequence, spare: int) -> bool:
        """Give a waiting sequence a slot and blocks for its tokens, if that leaves `spare` blocks free."""
        if not self.has_free_slot:
            return False
        hit = self._prefixes.lookup(sequence)
        needed = self._blocks_for(len(sequence.tokens)) - len(hit.blocks)
        if self._layout.has_kv and not self.blocks.can_allocate(needed, shared=hit.blocks, spare=spare):
            return False
        self.blocks.share(hit.blocks)
        sequence.block_table = [*hit.blocks, *self.blocks.allocate(needed)]
        sequence.slot = self.states.allocate_slot()
        self._prefixes.restore(sequence, hit)
        sequence.num_computed_tokens = hit.num_tokens
        sequence.prefill_end = len(sequence.tokens)
        sequence.snapshot_positions = self._snapshot_positions(sequence, hit)
        return True

    def needs_block(self, sequence: Sequence) -> bool:
        """Whether a running sequence has more tokens than its blocks hold."""
        return self._layout.has_kv and len(sequence.tokens) > len(sequence.block_table) * self._layout.block_size

    def can_extend(self) -> bool:
        """Whether a block is free."""
        return self.blocks.can_allocate(1)

    def extend(self, sequence: Sequence) -> None:
        """Give a sequence one more block. Call `can_extend` first."""
        sequence.block_table += self.blocks.allocate(1)

    def fork(self, parent: Sequence, child: Sequence) -> bool:
        """Share the parent's full blocks, copy its state and its last block; false if there is no memory."""
        full, tail = divmod(parent.num_computed_tokens, self._layout.block_size)
        own = int(tail > 0) if self._layout.has_kv else 0
        if not self.has_free_slot or (own and not self.blocks.can_allocate(own)):
            return False
        child.slot = self.states.allocate_slot()
        if self._layout.has_kv:
            self.blocks.share(parent.block_table[:full])
            child.block_table = [*parent.block_table[:full], *self.blocks.allocate(own)]
        self._prefixes.copy_state(parent, child)
        return True

    def advance(self, sequence: Sequence) -> None:
        """Count the scheduled tokens as computed, and save what other requests may reuse of them."""
        before = sequence.num_computed_tokens
        sequence.num_computed_tokens += sequence.num_scheduled_tokens
        sequence.num_scheduled_tokens = 0
        self._prefixes.save_blocks(sequence, before)
        if sequence.snapshot_positions and sequence.snapshot_positions[0] == sequence.num_computed_tokens:
            del sequence.snapshot_positions[0]
            self._prefixes.save_state(sequence)

    @property
    def usage(self) -> CacheUsage:
        """What is in use now."""
        used_slots = self._layout.num_slots - self.states.num_free_slots
        return CacheUsage(self.blocks.num_used, used_slots, self.states.snapshots_used)

    def save_state(self, sequence: Sequence) -> None:
        """Save the state after all computed tokens, where the next turn of a conversation will start."""
        self._prefixes.save_state(sequence)

    def free(self, sequence: Sequence) -> None:
        """Free the memory of a running sequence."""
        assert sequence.slot is not None
        self.blocks.free(sequence.block_table)
        self.states.free_slot(sequence.slot)
        sequence.block_table, sequence.slot = [], None

    def take_ops(self) -> list[CacheOp]:
        """The queued operations, which the caller must do before the next step."""
        return self._prefixes.take_ops()

    def forget_prefixes(self) -> None:
        """Reuse nothing that was computed so far: a step has failed."""
        self._prefixes.forget()

    def _blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self._layout.block_size) if self._layout.has_kv else 0

    def _snapshot_positions(self, sequence: Sequence, hit: PrefixHit) -> list[int]:
        """Where to save the state during this prefill: where other prompts are likely to diverge from this one."""
        end, interval = sequence.prefill_end, self._snapshot_interval
        positions = set(range(interval, end + 1, interval)) | set(sequence.request.boundaries)
        if self._layout.has_kv:
            positions.add(hit.divergence_point)
        if sequence.sampling.prompt_logprobs:
            positions -= {sequence.first_scored}  # a scored token needs the logits of the one before it
            positions.add(sequence.first_scored - 1)
        if sequence.sampling.max_tokens:
            positions.add(sequence.prompt_len)
        return self._prefixes.without_snapshot(sequence, {p for p in positions if hit.num_tokens < p <= end})
