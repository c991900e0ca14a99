"""The sequences that are not at their end, in their queues, with the memory they own."""

from bisect import insort

from server.engine.cache.sequence_cache import SequenceCache
from server.engine.config import CacheLayout, EngineConfig
from server.engine.sequence import Sequence, SequenceStatus


class Queues:
    """Waiting and running sequences, both in order of arrival. A held beam may be in neither."""

    def __init__(self, config: EngineConfig, layout: CacheLayout) -> None:
        self.cache = SequenceCache(config, layout)
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.by_id: dict[str, Sequence] = {}  # of the sequence's request
        self._arrivals = 0

    def next_number(self) -> int:
        """The number of the next sequence to arrive."""
        self._arrivals += 1
        return self._arrivals

    def enter(self, sequence: Sequence) -> None:
        """A new sequence, which waits."""
        self.by_id[sequence.request_id] = sequence
        self.wait(sequence)

    def wait(self, sequence: Sequence) -> None:
        """Into the waiting queue, at its place."""
        sequence.status = SequenceStatus.WAITING
        insort(self.waiting, sequence, key=lambda waiting: waiting.key)

    def run(self, sequence: Sequence) -> None:
        """Among the running ones, at its place; it has its memory already."""
        sequence.status = SequenceStatus.RUNNING
        insort(self.running, sequence, key=lambda running: running.key)

    def leave(self, sequence: Sequence) -> None:
        """The sequence is at its end."""
        del self.by_id[sequence.request_id]
        self.retire(sequence)

    def retire(self, sequence: Sequence) -> None:
        """Take a sequence out of its queue and free what it owns."""
        if sequence.status is SequenceStatus.RUNNING:
            self.running.remove(sequence)
            self.cache.release(sequence)
        elif not sequence.is_held:
            self.waiting.remove(sequence)
        sequence.status = SequenceStatus.FINISHED

    def clear(self) -> None:
        """Nothing left, whatever state it was in."""
        self.by_id.clear()
        self.waiting.clear()
        self.running.clear()
        self.cache.clear()
