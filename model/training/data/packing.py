"""Batches for a GPU: rows of one length that hold several examples each, made ahead of time by other processes.

All batches have one shape, so that what is compiled for it is compiled once, and hardly any position is padding.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from model.training.data.collate import LossWeights, Noise, Place, TrainingBatch, collate
from model.training.data.examples import MAX_TOKENS
from model.training.data.mixture import Mixture
from model.training.data.sampler import ExampleSampler

SURPLUS = 1.05  # of the tokens of a batch are drawn, so that short examples are at hand to fill the rows
BATCHES_AHEAD = 4


class PackedStream:
    """An endless stream of batches of packed rows, like BatchStream: reproducible, and it resumes exactly."""

    def __init__(
        self,
        prepared_dir: Path,
        mixture: Mixture,
        *,
        seed: int,
        batch_tokens: int,
        weights: LossWeights | None = None,
        noise: Noise | None = None,
        row_tokens: int = MAX_TOKENS,
    ) -> None:
        if batch_tokens < row_tokens:
            raise ValueError(f"batch_tokens {batch_tokens} does not hold one row: use {row_tokens} or more")
        self.sampler = ExampleSampler(prepared_dir, mixture, seed)
        self._waiting: list[tuple[str, int, int]] = []  # source, index and length of drawn examples
        self._shape = batch_tokens // row_tokens, row_tokens
        self._weights, self._noise = weights or LossWeights(), noise or Noise()

    def __iter__(self) -> Iterator[TrainingBatch]:
        return self

    def __next__(self) -> TrainingBatch:
        rows, length = self._shape
        missing = SURPLUS * rows * length - sum(size for _, _, size in self._waiting)
        while missing > 0:
            name, index, size = self.sampler.draw()
            if size - 1 > length:
                raise ValueError(f"{name} has an example of {size} tokens: rows of {length} hold {length + 1} at most")
            self._waiting.append((name, index, size - 1))  # the last token is only a target
            missing -= size - 1
        places, self._waiting = pack(self._waiting, rows, length)
        return collate(places, self.sampler.sources, self._shape, self._weights, self._noise, packed=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that later batches depend on, as JSON values."""
        return self.sampler.state_dict() | {"waiting": [list(entry) for entry in self._waiting]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken. ValueError if it belongs to other sources, or to no packed rows."""
        if not isinstance(state["waiting"], list):
            raise ValueError("state of batches with one example a row does not fit packed rows")
        self.sampler.load_state_dict(state)
        self._waiting = [(name, index, length) for name, index, length in state["waiting"]]


def pack(
    examples: list[tuple[str, int, int]], rows: int, length: int
) -> tuple[list[Place], list[tuple[str, int, int]]]:
    """Place examples (source, index, length) in rows by best fit, the longest first; returns also those left over."""
    with_space: list[list[tuple[int, int]]] = [[] for _ in range(length + 1)]  # (row, start) by the space after it
    with_space[length] = [(row, 0) for row in range(rows)]
    spaces = 1 << length  # bit n is set where a row has a space of n
    places, left = [], []
    for example in sorted(examples, key=lambda example: -example[2]):
        source, index, size = example
        fitting = spaces >> size
        if not fitting:
            left.append(example)
            continue
        space = size + (fitting & -fitting).bit_length() - 1
        row, start = with_space[space].pop()
        places.append(Place(source, index, row, start))
        with_space[space - size].append((row, start + size))
        if not with_space[space]:
            spaces ^= 1 << space
        spaces |= 1 << (space - size)
    return places, left


class Prefetched:
    """Streams whose batches are made by a process each while the GPU computes; it takes one of each in turn."""

    def __init__(self, streams: Sequence[PackedStream]) -> None:
        self._streams = streams
        self._states = [stream.state_dict() for stream in streams]  # after the batches that were taken
        self._batches: list[Iterator[tuple[TrainingBatch, dict[str, Any]]]] = []
        self._taken = 0

    def __next__(self) -> TrainingBatch:
        if not self._batches:
            self._batches = [iter(_loader(stream)) for stream in self._streams]
        turn = self._taken % len(self._streams)
        batch, self._states[turn] = next(self._batches[turn])
        self._taken += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The state after the batches that were taken, not after those that were made."""
        return {"taken": self._taken, "streams": list(self._states)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken, before the first batch. ValueError for another number of streams."""
        count, own = len(state.get("streams", ())), len(self._streams)
        if count != own:
            raise ValueError(f"state of {count} streams of packed rows does not fit {own}: resume where the run began")
        self._taken, self._states = state["taken"], list(state["streams"])
        for stream, of_stream in zip(self._streams, self._states, strict=True):
            stream.load_state_dict(of_stream)


def _loader(stream: PackedStream) -> DataLoader[tuple[TrainingBatch, dict[str, Any]]]:
    return DataLoader(_WithState(stream), None, num_workers=1, prefetch_factor=BATCHES_AHEAD)


class _WithState(IterableDataset[tuple[TrainingBatch, dict[str, Any]]]):
    """Each batch of a stream with the stream's state after it."""

    def __init__(self, stream: PackedStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[tuple[TrainingBatch, dict[str, Any]]]:
        for batch in self._stream:
            yield batch, self._stream.state_dict()
