"""A classifier that sees only which words and pairs of words a text has: what analysis has to beat.

Multinomial logistic regression on binary features of unit length, trained to convergence on all rows at once.
Shapes: F features of all texts, N texts, V vocabulary, L labels.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from model.evaluation.words import split_words

MIN_COUNT = 2  # texts that must have a feature
PENALTY = 0.3  # on the squared weights, summed, against the summed loss
ITERATIONS = 60


class BagOfWords:
    """Learns from labelled texts; knows the labels that it saw."""

    def __init__(self, texts: Sequence[str], labels: Sequence[str]) -> None:
        """ValueError where there is no text to learn from."""
        if not texts:
            raise ValueError("no texts: a bag of words needs labelled texts to learn from")
        counts = Counter(feature for text in texts for feature in _features(text))
        kept = sorted(feature for feature, count in counts.items() if count >= MIN_COUNT)
        self._vocabulary = {feature: index for index, feature in enumerate(kept)}
        self.labels = sorted(set(labels))
        self._weights_VL = torch.zeros(len(kept) + 1, len(self.labels))  # the last feature is in every text
        self._train(texts, torch.tensor([self.labels.index(label) for label in labels]))

    def probabilities(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """The probability of each label, text by text."""
        probabilities_NL = self._logits(self._bags(texts)).softmax(-1).tolist()
        return [dict(zip(self.labels, row, strict=True)) for row in probabilities_NL]

    def _train(self, texts: Sequence[str], targets_N: Tensor) -> None:
        bags = self._bags(texts)
        self._weights_VL.requires_grad_()
        search = torch.optim.LBFGS([self._weights_VL], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            search.zero_grad()
            fit = functional.cross_entropy(self._logits(bags), targets_N)
            total: Tensor = fit + PENALTY * self._weights_VL.square().sum() / len(targets_N)
            total.backward()
            return total

        search.step(loss)
        self._weights_VL.requires_grad_(False)

    def _logits(self, bags: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        features_F, starts_N, scales_F = bags
        return functional.embedding_bag(features_F, self._weights_VL, starts_N, mode="sum", per_sample_weights=scales_F)

    def _bags(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Features of all texts one after another, where each text starts, and the scale of each feature."""
        always = len(self._vocabulary)
        known = self._vocabulary
        bags = [[always, *sorted(known[f] for f in _features(text) if f in known)] for text in texts]
        sizes = torch.tensor([len(bag) for bag in bags])
        starts_N = sizes.cumsum(0) - sizes
        features_F = torch.tensor([feature for bag in bags for feature in bag])
        return features_F, starts_N, sizes.float().rsqrt().repeat_interleave(sizes)


def _features(text: str) -> set[str]:
    words = split_words(text)
    return {*words, *_pairs(words)}


def _pairs(words: Iterable[str]) -> Iterable[str]:
    return (f"{first} {second}" for first, second in pairwise(words))
