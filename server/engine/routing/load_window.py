"""The load of the experts in the last minutes, by task or tenant, in bounded memory: a bucket of counts per minute."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from server.engine.types import LabelLoad

BUCKET_SECONDS = 60
MAX_MINUTES = 15
MAX_LABELS = 31  # that are told apart
OTHER = "other"

Counts = NDArray[np.int64]  # [L, E], E the largest number of experts of a layer


class _LabelCounts:
    """Of one label in one minute."""

    def __init__(self, layers: int, experts: int) -> None:
        self.num_tokens = 0
        self.pairs_LE: Counts = np.zeros((layers, experts), dtype=np.int64)


class LoadWindow:
    """Counts of (token, expert) pairs by a label, such as the task. One thread adds, others may ask.

    The first labels that come are told apart, up to MAX_LABELS; all others are counted together until the labels that
    were there before them are forgotten.
    """

    def __init__(self, num_experts: Mapping[int, int], clock: Callable[[], float] = time.monotonic) -> None:
        """`num_experts` is by index of the MoE layer."""
        self._experts = list(num_experts.values())
        self._clock = clock
        self._buckets: dict[int, dict[str, _LabelCounts]] = {}  # by minute
        self._lock = threading.Lock()

    def add(self, labels: Sequence[str], num_tokens: Sequence[int], pairs_NLE: Counts) -> None:
        """Count tokens of N groups; several may have the same label."""
        with self._lock:
            bucket = self._bucket()
            for index, label in enumerate(labels):
                counts = self._counts(bucket, label)
                counts.num_tokens += num_tokens[index]
                counts.pairs_LE += pairs_NLE[index]

    def load(self, minutes: int) -> tuple[LabelLoad, ...]:
        """The load of each label in this minute and the ones before it, in the order of the names."""
        now = self._minute()
        with self._lock:
            recent = [bucket for minute, bucket in self._buckets.items() if now - minute < minutes]
            names = sorted({name for bucket in recent for name in bucket})
            return tuple(self._sum(name, [bucket[name] for bucket in recent if name in bucket]) for name in names)

    def _sum(self, name: str, counts: Sequence[_LabelCounts]) -> LabelLoad:
        pairs_LE = np.sum([one.pairs_LE for one in counts], axis=0).tolist()
        pairs = tuple(tuple(row[:experts]) for row, experts in zip(pairs_LE, self._experts, strict=True))
        return LabelLoad(name, sum(one.num_tokens for one in counts), pairs)

    def _minute(self) -> int:
        return int(self._clock() // BUCKET_SECONDS)

    def _bucket(self) -> dict[str, _LabelCounts]:
        """That of this minute; the ones that are too old are dropped."""
        now = self._minute()
        for minute in [minute for minute in self._buckets if now - minute >= MAX_MINUTES]:
            del self._buckets[minute]
        return self._buckets.setdefault(now, {})

    def _counts(self, bucket: dict[str, _LabelCounts], label: str) -> _LabelCounts:
        known = set().union(*self._buckets.values()) - {OTHER}
        name = label if label in known or len(known) < MAX_LABELS else OTHER
        if name not in bucket:
            bucket[name] = _LabelCounts(len(self._experts), max(self._experts))
        return bucket[name]
