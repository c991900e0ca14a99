"""Batches for training and validation: examples of many sources, sorted into length buckets.

Shape letters: B examples, L positions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.training.data.examples import ANSWER, PROMPT
from model.training.data.mixture import Mixture, value_of
from model.training.data.prepare import PreparedSource, load_source, source_names
from model.training.data.rows import task_of

# These thirty lengths leave 6 % padding; twelve lengths left 13 %.
BUCKET_LENGTHS = (24, *range(32, 128, 8), *range(128, 256, 16), *range(256, 513, 32))


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """The examples of one micro-batch. `targets_BL` are the next tokens; those with a weight of 0 are ignored."""

    token_ids_BL: Tensor  # int64
    targets_BL: Tensor  # int64
    weights_BL: Tensor  # float32, see LossWeights; 0 on padding
    noise_BL: Tensor  # float32, see Noise: probability that the token is replaced
    lengths_B: Tensor  # int64: positions that are not padding
    sources: tuple[str, ...]  # of each example, such as "translate/tatoeba-en-zh"


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weight of a token in the loss: 1 in answers and plain text, `prompt` in prompts, 0 in system messages.

    The answer of an analysis is a label of two or three tokens after a long prompt: its tokens weigh `label` together.
    System messages hold label sets in random order, which cannot be predicted, so they have no weight.
    """

    prompt: float = 0.3
    label: float = 8.0


@dataclass(frozen=True, slots=True)
class Noise:
    """Probability that an input token is replaced, by source: (pattern, probability) pairs, the first match counts.

    Small sources are repeated many times, and the network would memorize them. Replacing random tokens
    (arXiv 1703.02573) makes it use all of the context. Only user messages are changed, and in plain text every token;
    the targets stay as they are.
    """

    chances: tuple[tuple[str, float], ...] = ()

    def of(self, source: str, kinds_L: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The probability of each token."""
        disturbed_L = kinds_L == (PROMPT if PROMPT in kinds_L else ANSWER)
        return disturbed_L * np.float32(value_of(source, self.chances, default=0.0))


ANSWERS_ONLY = LossWeights(prompt=0.0, label=0.0)


class BatchStream:
    """An endless stream of training batches: the same seed gives the same batches, and it resumes exactly.

    The next example is drawn from the source that is furthest behind its share of the tokens. A source is read in
    epochs, shuffled anew for each one, so that every example is drawn once per epoch. Examples are collected in buckets
    by length; a bucket becomes the next batch once it holds batch_tokens // L of them.
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
        sources = [load_source(prepared_dir, name, "train") for name in source_names(prepared_dir, "train")]
        self._shares = mixture.source_shares({source.name: len(source.tokens) for source in sources})
        self._sources = {source.name: source for source in sources if self._shares.get(source.name, 0) > 0}
        self._readers = {name: _EpochReader(name, len(source), seed) for name, source in self._sources.items()}
        self._tokens_drawn = dict.fromkeys(self._sources, 0)
        self._waiting: dict[int, list[tuple[str, int]]] = {length: [] for length in bucket_lengths}
        self._batch_tokens, self._weights, self._noise = batch_tokens, weights or LossWeights(), noise or Noise()

    def __iter__(self) -> Iterator[TrainingBatch]:
        return self

    def __next__(self) -> TrainingBatch:
        while True:
            name = min(self._sources, key=lambda name: self._tokens_drawn[name] / self._shares[name])
            index = self._readers[name].next_index()
            size = self._sources[name].length(index)
            self._tokens_drawn[name] += size
            length = _bucket_of(size, self._waiting)
            waiting = self._waiting[length]
            waiting.append((name, index))
            if len(waiting) == self._batch_tokens // length:
                self._waiting[length] = []
                examples = [(self._sources[name], index) for name, index in waiting]
                return _collate(examples, length, self._weights, self._noise)

    @property
    def tokens_drawn(self) -> dict[str, int]:
        """Tokens drawn from each source so far."""
        return dict(self._tokens_drawn)

    @property
    def epochs(self) -> dict[str, float]:
        """Epochs of each source so far, with fractions."""
        return {name: reader.epochs for name, reader in self._readers.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the state that later batches depend on, as JSON values."""
        return {
            "drawn": {name: reader.drawn for name, reader in self._readers.items()},
            "tokens_drawn": self.tokens_drawn,
            "waiting": {str(length): [list(entry) for entry in entries] for length, entries in self._waiting.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken. ValueError if it belongs to other sources or buckets."""
        if set(state["drawn"]) != set(self._sources):
            raise ValueError(f"state of sources {sorted(state['drawn'])} does not fit {sorted(self._sources)}")
        if set(state["waiting"]) != {str(length) for length in self._waiting}:
            raise ValueError(f"state of buckets {sorted(state['waiting'])} does not fit {sorted(self._waiting)}")
        for name, reader in self._readers.items():
            reader.drawn = state["drawn"][name]
        self._tokens_drawn = dict(state["tokens_drawn"])
        self._waiting = {int(length): [(n, i) for n, i in entries] for length, entries in state["waiting"].items()}


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
            yield _collate([(prepared, i) for i in of_bucket[start : start + rows]], length, ANSWERS_ONLY, Noise())


class _EpochReader:
    """The order in which one source is read. `drawn` counts the examples drawn in all epochs."""

    def __init__(self, name: str, size: int, seed: int) -> None:
        self._key, self._size = [seed, *name.encode()], size
        self._epoch, self._order = -1, np.empty(0, np.int64)
        self.drawn = 0

    @property
    def epochs(self) -> float:
        return self.drawn / self._size

    def next_index(self) -> int:
        epoch, position = divmod(self.drawn, self._size)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._permutation(epoch)
        self.drawn += 1
        return int(self._order[position])

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([epoch, *self._key]).permutation(self._size)


def _check_batch_tokens(batch_tokens: int, bucket_lengths: Sequence[int]) -> None:
    if batch_tokens < max(bucket_lengths):
        raise ValueError(f"batch_tokens {batch_tokens} does not hold one example: use {max(bucket_lengths)} or more")


def _bucket_of(size: int, bucket_lengths: Sequence[int] | dict[int, Any]) -> int:
    """Return the smallest bucket for an example of `size` tokens, of which the last is only a target."""
    return min(length for length in bucket_lengths if length >= size - 1)


def _token_weights(kinds_L: NDArray[np.uint8], source: str, weights: LossWeights) -> NDArray[np.float32]:
    answer = 1.0
    if task_of(source) == "analyze":
        answer = max(1.0, weights.label / max(int((kinds_L == ANSWER).sum()), 1))
    of_kind = np.zeros(3, np.float32)
    of_kind[[PROMPT, ANSWER]] = weights.prompt, answer
    return of_kind[kinds_L]


def _collate(
    examples: Sequence[tuple[PreparedSource, int]], length: int, weights: LossWeights, noise: Noise
) -> TrainingBatch:
    token_ids_BL = np.zeros((len(examples), length), np.int64)
    targets_BL = np.zeros((len(examples), length), np.int64)
    weights_BL = np.zeros((len(examples), length), np.float32)
    noise_BL = np.zeros((len(examples), length), np.float32)
    lengths_B = np.zeros(len(examples), np.int64)
    for row, (source, index) in enumerate(examples):
        example = source.example(index)
        size = len(example.token_ids) - 1
        token_ids_BL[row, :size] = example.token_ids[:-1]
        targets_BL[row, :size] = example.token_ids[1:]
        weights_BL[row, :size] = _token_weights(example.kinds[1:], source.name, weights)
        noise_BL[row, :size] = noise.of(source.name, example.kinds[:-1])
        lengths_B[row] = size
    return TrainingBatch(
        token_ids_BL=torch.from_numpy(token_ids_BL),
        targets_BL=torch.from_numpy(targets_BL),
        weights_BL=torch.from_numpy(weights_BL),
        noise_BL=torch.from_numpy(noise_BL),
        lengths_B=torch.from_numpy(lengths_B),
        sources=tuple(source.name for source, _ in examples),
    )
