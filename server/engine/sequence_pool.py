"""The sequences that have not ended, in their queues, and the cache memory they own."""

from bisect import insort

from server.engine.cache.layout import CacheLayout
from server.engine.cache.sequence_cache import SequenceCache
from server.engine.config import EngineConfig
from server.engine.sequence import Sequence, SequenceStatus


class SequencePool:
    """Waiting and running sequences, both by priority and arrival. A held beam that was preempted is in neither."""

    def __init__(self, config: EngineConfig, layout: CacheLayout) -> None:
        self.cache = SequenceCache(config, layout)
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.by_id: dict[str, Sequence] = {}  # by request id; every beam has its own
        self._arrivals = 0

    def next_number(self) -> int:
        """The number of the next sequence in order of arrival."""
        self._arrivals += 1
        return self._arrivals

    def add(self, sequence: Sequence) -> None:
        """A new sequence, which waits."""
        self.by_id[sequence.request_id] = sequence
        self.wait(sequence)

    def wait(self, sequence: Sequence) -> None:
        """Put a sequence into the waiting queue at its place."""
        sequence.status = SequenceStatus.WAITING
        insort(self.waiting, sequence, key=_queue_order)

    def run(self, sequence: Sequence) -> None:
        """Put a sequence that has its cache memory among the running ones at its place."""
        sequence.status = SequenceStatus.RUNNING
        insort(self.running, sequence, key=_queue_order)

    def admit(self, sequence: Sequence) -> bool:
        """Let a waiting sequence run if there is a slot, and memory with a block to spare for each running one."""
        if not self.cache.admit(sequence, spare=len(self.running)):
            return False
        self.waiting.remove(sequence)
        self.run(sequence)
        return True

    def preempt(self, sequence: Sequence) -> None:
        """Take its memory from a running sequence, which waits and then computes all its tokens again."""
        self._take_out(sequence)
        sequence.reset()
        if not sequence.is_held:  # a held beam comes back when its group goes on
            self.wait(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence that has ended."""
        del self.by_id[sequence.request_id]
        self._take_out(sequence)
        sequence.status = SequenceStatus.FINISHED

    def clear(self) -> None:
        """Forget all sequences, whatever state they are in."""
        self.by_id.clear()
        self.waiting.clear()
        self.running.clear()
        self.cache.clear()

    def _take_out(self, sequence: Sequence) -> None:
        if sequence.status is SequenceStatus.RUNNING:
            self.running.remove(sequence)
            self.cache.free(sequence)
        elif not sequence.is_held:
            self.waiting.remove(sequence)


def in_queue_order(first: list[Sequence], second: list[Sequence]) -> list[Sequence]:
    """A new list of all sequences by priority and arrival; both lists are in that order."""
    return sorted([*first, *second], key=_queue_order) if first else list(second)


def _queue_order(sequence: Sequence) -> tuple[int, int, int]:
    return sequence.queue_order
