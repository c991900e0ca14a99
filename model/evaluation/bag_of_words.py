"""A classifier that sees only which words and pairs of words a text has: what analysis has to beat.

Multinomial logistic regression on binary features of unit length, trained text by text with AdaGrad.
Shapes: F features of a text, V vocabulary, L labels.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from model.evaluation.words import split_words

MIN_COUNT = 2  # texts that must have a feature
EPOCHS = 5
RATE = 0.3
TINY = 1e-8

Floats = NDArray[np.float64]
Bag = NDArray[np.int64]


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
