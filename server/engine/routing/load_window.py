"""The load of the experts in the last minutes, by task, in bounded memory: one bucket of counts per minute."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from server.engine.types import TaskLoad

BUCKET_SECONDS = 60
MAX_MINUTES = 15
MAX_TASKS = 31  # that are told apart
OTHER = "other"

Counts = NDArray[np.int64]  # [L, E], E the largest number of experts of a layer


class _TaskCounts:
    """Of one task in one minute."""

    def __init__(self, layers: int, experts: int) -> None:
        self.num_tokens = 0
        self.pairs_LE: Counts = np.zeros((layers, experts), dtype=np.int64)


class LoadWindow:
    """Counts of (token, expert) pairs. One thread adds, others may ask.

    The first tasks that come are told apart, up to MAX_TASKS; all others are counted together.
    """

    def __init__(self, num_experts: Mapping[int, int], clock: Callable[[], float] = time.monotonic) -> None:
        """`num_experts` is by index of the MoE layer."""
        self._experts = list(num_experts.values())
        self._clock = clock
        self._names: set[str] = set()
        self._buckets: dict[int, dict[str, _TaskCounts]] = {}  # by minute
        self._lock = threading.Lock()

    def add(self, tasks: Sequence[str], num_tokens: Sequence[int], pairs_NLE: Counts) -> None:
        """Count tokens of N tasks."""
        with self._lock:
            bucket = self._bucket()
            for index, task in enumerate(tasks):
                counts = self._counts(bucket, task)
                counts.num_tokens += num_tokens[index]
                counts.pairs_LE += pairs_NLE[index]

    def load(self, minutes: int) -> tuple[TaskLoad, ...]:
        """The load of each task in this minute and the ones before it, in the order of the names."""
        now = self._minute()
        with self._lock:
            recent = [bucket for minute, bucket in self._buckets.items() if now - minute < minutes]
            names = sorted({name for bucket in recent for name in bucket})
            return tuple(self._sum(name, [bucket[name] for bucket in recent if name in bucket]) for name in names)

    def _sum(self, name: str, counts: Sequence[_TaskCounts]) -> TaskLoad:
        pairs_LE = np.sum([one.pairs_LE for one in counts], axis=0).tolist()
        pairs = tuple(tuple(row[:experts]) for row, experts in zip(pairs_LE, self._experts, strict=True))
        return TaskLoad(name, sum(one.num_tokens for one in counts), pairs)

    def _minute(self) -> int:
        return int(self._clock() // BUCKET_SECONDS)

    def _bucket(self) -> dict[str, _TaskCounts]:
        """That of this minute; the ones that are too old are dropped."""
        now = self._minute()
        for minute in [minute for minute in self._buckets if now - minute >= MAX_MINUTES]:
            del self._buckets[minute]
        return self._buckets.setdefault(now, {})

    def _counts(self, bucket: dict[str, _TaskCounts], task: str) -> _TaskCounts:
        if task not in self._names and len(self._names) < MAX_TASKS:
            self._names.add(task)
        name = task if task in self._names else OTHER
        if name not in bucket:
            bucket[name] = _TaskCounts(len(self._experts), max(self._experts))
        return bucket[name]
