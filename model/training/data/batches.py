"""Batches for training and validation: examples of many sources, sorted into length buckets.

Shape letters: B examples, L positions.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from model.training.data.collate import ANSWERS_ONLY, LossWeights, Noise, Place, TrainingBatch, collate
from model.training.data.mixture import Mixture
from model.training.data.prepare import load_source
from model.training.data.sampler import ExampleSampler

# These thirty lengths leave 6 % padding; twelve lengths left 13 %.
BUCKET_LENGTHS = (24, *range(32, 128, 8), *range(128, 256, 16), *range(256, 513, 32))


class BatchStream:
    """An endless stream of training batches: the same seed gives the same batches, and it resumes exactly.

    Examples are collected in buckets by length; a bucket becomes the next batch once it holds batch_tokens // L.
    """

    def __init__(
        self,
        prepared_dir: Path,
        mixture: Mixture,
        *,
        seed: int,
        batch_tokens: int = 4096,
        weights: LossWeights | None = None,
        noise: Noise | None = None,
        bucket_lengths: Sequence[int] = BUCKET_LENGTHS,
    ) -> None:
        _check_batch_tokens(batch_tokens, bucket_lengths)
        self.sampler = ExampleSampler(prepared_dir, mixture, seed)
        self._waiting: dict[int, list[tuple[str, int]]] = {length: [] for length in bucket_lengths}
        self._batch_tokens, self._weights, self._noise = batch_tokens, weights or LossWeights(), noise or Noise()

    def __iter__(self) -> Iterator[TrainingBatch]:
        return self

    def __next__(self) -> TrainingBatch:
        while True:
            name, index, size = self.sampler.draw()
            length = _bucket_of(size, self._waiting)
            waiting = self._waiting[length]
            waiting.append((name, index))
            if len(waiting) == self._batch_tokens // length:
                self._waiting[length] = []
                places = [Place(name, index, row) for row, (name, index) in enumerate(waiting)]
                shape = len(places), length
                return collate(places, self.sampler.sources, shape, self._weights, self._noise)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that later batches depend on, as JSON values."""
        waiting = {str(length): [list(entry) for entry in entries] for length, entries in self._waiting.items()}
        return self.sampler.state_dict() | {"waiting": waiting}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken. ValueError if it belongs to other sources or buckets, or to packed rows."""
        waiting = state.get("waiting")
        if not isinstance(waiting, dict):
            raise ValueError(
                "state of packed rows does not fit rows of one example: resume on a GPU, where the run began"
            )
        if set(waiting) != {str(length) for length in self._waiting}:
            raise ValueError(f"state of buckets {sorted(waiting)} does not fit {sorted(self._waiting)}")
        self.sampler.load_state_dict(state)
        self._waiting = {int(length): [(n, i) for n, i in entries] for length, entries in waiting.items()}


def valid_batches(
    prepared_dir: Path,
    source: str,
    *,
    batch_tokens: int = 4096,
    max_examples: int | None = None,
    bucket_lengths: Sequence[int] = BUCKET_LENGTHS,
) -> Iterator[TrainingBatch]:
    """Yield the first `max_examples` (or all) validation examples of a source, shortest first; only answers count."""
    _check_batch_tokens(batch_tokens, bucket_lengths)
    prepared = load_source(prepared_dir, source, "valid")
    count = len(prepared) if max_examples is None else min(max_examples, len(prepared))
    for length in bucket_lengths:
        of_bucket = [i for i in range(count) if _bucket_of(prepared.length(i), bucket_lengths) == length]
        rows = batch_tokens // length
        for start in range(0, len(of_bucket), rows):
            places = [Place(source, i, row) for row, i in enumerate(of_bucket[start : start + rows])]
            yield collate(places, {source: prepared}, (len(places), length), ANSWERS_ONLY, Noise())


def _check_batch_tokens(batch_tokens: int, bucket_lengths: Sequence[int]) -> None:
    if batch_tokens < max(bucket_lengths):
        raise ValueError(f"batch_tokens {batch_tokens} does not hold one example: use {max(bucket_lengths)} or more")


def _bucket_of(size: int, bucket_lengths: Sequence[int] | dict[int, Any]) -> int:
    """Return the smallest bucket for an example of `size` tokens, of which the last is only a target."""
    return min(length for length in bucket_lengths if length >= size - 1)
