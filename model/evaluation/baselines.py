"""What a network has to beat: a byte n-gram model for likelihoods, a bag of words for labels."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from model.evaluation.metrics import split_words

ORDER = 6

MIN_COUNT = 2  # texts that must have a feature
EPOCHS = 5
RATE = 0.3
TINY = 1e-8

Integers = NDArray[np.uint64]
Floats = NDArray[np.float64]
Bag = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """Counts of one order, sorted by n-gram."""

    grams_G: Integers
    counts_G: NDArray[np.int64]
    contexts_C: Integers
    totals_C: NDArray[np.int64]
    kinds_C: NDArray[np.int64]  # different bytes seen after the context

    @classmethod
    def count(cls, grams_T: Integers) -> "_Table":
        grams_G, counts_G = np.unique(grams_T, return_counts=True)
        contexts_C, starts_C, kinds_C = np.unique(grams_G >> np.uint64(8), return_index=True, return_counts=True)
        return cls(grams_G, counts_G, contexts_C, np.add.reduceat(counts_G, starts_C), kinds_C)

    def refine(self, grams_T: Integers, shorter_T: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities of this order from those of the order below."""
        counts_T = _look_up(self.grams_G, self.counts_G, grams_T)
        contexts_T = grams_T >> np.uint64(8)
        totals_T = _look_up(self.contexts_C, self.totals_C, contexts_T)
        kinds_T = _look_up(self.contexts_C, self.kinds_C, contexts_T)
        mixed_T = (counts_T + kinds_T * shorter_T) / np.maximum(totals_T + kinds_T, 1)
        return np.where(totals_T > 0, mixed_T, shorter_T)


class ByteNgrams:
    """An interpolated n-gram model (Witten and Bell 1991). A text begins after zero bytes: beginnings are learnt.

    The probability of a byte after n - 1 others mixes what was counted there with the probability after n - 2 others;
    the weight of the shorter context is the number of different bytes seen after the longer one. Bytes and their
    context are packed into one integer, so that counting is sorting. Shapes: T bytes, G different n-grams, C different
    contexts.
    """

    def __init__(self, texts: Iterable[bytes], order: int = ORDER) -> None:
        """ValueError where the texts are empty."""
        self.order = order
        start = bytes(order - 1)
        stream = b"".join(start + text for text in texts)
        grams = [_ngrams(stream, size) for size in range(1, order + 1)]
        real_T = np.frombuffer(stream, np.uint8) > 0
        if not real_T.any():
            raise ValueError("no text: an n-gram model needs text to count")
        self._tables = [_Table.count(grams_T[real_T]) for grams_T in grams]

    def bits(self, text: bytes, context: bytes = b"") -> float:
        """Information of `text` that follows `context` at the beginning of a document, in bits."""
        stream = bytes(self.order - 1) + context + text
        probabilities_T = np.full(len(text), 1 / 256)
        for size, table in enumerate(self._tables, start=1):
            grams_T = _ngrams(stream, size)[len(stream) - len(text) :]
            probabilities_T = table.refine(grams_T, probabilities_T)
        return float(-np.log2(probabilities_T).sum())


def _ngrams(stream: bytes, size: int) -> Integers:
    """The last `size` bytes up to each byte of the stream, as one integer; zeros stand before the stream."""
    bytes_T = np.frombuffer(stream, np.uint8).astype(np.uint64)
    padded = np.concatenate([np.zeros(size - 1, np.uint64), bytes_T])
    grams_T = np.zeros(len(bytes_T), np.uint64)
    for place in range(size):
        grams_T = (grams_T << np.uint64(8)) | padded[place : place + len(bytes_T)]
    return grams_T


def _look_up(keys: Integers, values: NDArray[np.int64], wanted_T: Integers) -> NDArray[np.int64]:
    """The value of each wanted key, zero where it is none of the sorted keys."""
    places_T = np.minimum(np.searchsorted(keys, wanted_T), len(keys) - 1)
    return np.where(keys[places_T] == wanted_T, values[places_T], 0)


class BagOfWords:
    """Learns from labelled texts, in their order; knows the labels that it saw."""

    def __init__(self, texts: Sequence[str], labels: Sequence[str]) -> None:
        """ValueError where there is no text to learn from."""
        if not texts:
            raise ValueError("no texts: a bag of words needs labelled texts to learn from")
        counts = Counter(feature for text in texts for feature in _features(text))
        kept = sorted(feature for feature, count in counts.items() if count >= MIN_COUNT)
        self._vocabulary = {feature: index for index, feature in enumerate(kept)}
        self.labels = sorted(set(labels))
        self._weights_VL = np.zeros((len(kept) + 1, len(self.labels)))  # the last feature is in every text
        index = {label: number for number, label in enumerate(self.labels)}
        self._train([self._bag(text) for text in texts], [index[label] for label in labels])

    def probabilities(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """The probability of each label, text by text."""
        found = [self._probabilities(self._bag(text)).tolist() for text in texts]
        return [dict(zip(self.labels, row, strict=True)) for row in found]

    def _train(self, bags: Sequence[Bag], targets: Sequence[int]) -> None:
        squares_VL = np.full_like(self._weights_VL, TINY)
        for _ in range(EPOCHS):
            for bag_F, target in zip(bags, targets, strict=True):
                gradient_L = self._probabilities(bag_F)
                gradient_L[target] -= 1
                gradient_L /= np.sqrt(len(bag_F))
                squares_VL[bag_F] += gradient_L**2
                self._weights_VL[bag_F] -= RATE * gradient_L / np.sqrt(squares_VL[bag_F])

    def _probabilities(self, bag_F: Bag) -> Floats:
        logits_L = self._weights_VL[bag_F].sum(0) / np.sqrt(len(bag_F))
        odds_L: Floats = np.exp(logits_L - logits_L.max())
        return odds_L / odds_L.sum()

    def _bag(self, text: str) -> Bag:
        known = self._vocabulary
        return np.array([len(known), *sorted(known[feature] for feature in _features(text) if feature in known)])


def _features(text: str) -> set[str]:
    words = split_words(text)
    return {*words, *(f"{first} {second}" for first, second in pairwise(words))}
