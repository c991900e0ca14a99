"""Scores of a corpus, and how far they may be off: 95 % intervals from resampling the samples.

Every score here is a function of statistics that are summed over the samples (as corpus BLEU is): a resample is then a
weighted sum. Shapes: N samples, S statistics, R resamples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
SEED = 12345
TAIL = 0.025

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class CorpusScore:
    """`score_of` maps statistics summed over samples, [S], to the score."""

    statistics_NS: Array
    score_of: Callable[[Array], float]

    @property
    def value(self) -> float:
        return float(self.score_of(self.statistics_NS.sum(0)))

    @property
    def samples(self) -> int:
        return len(self.statistics_NS)

    def interval(self, resamples: int = RESAMPLES, seed: int = SEED) -> Interval:
        """The middle 95 % over samples drawn with replacement.

        A score with a bias, such as a calibration error, moves when resampled; the interval is widened to hold `value`.
        """
        draws_RN = np.random.default_rng(seed).multinomial(self.samples, self._even(), size=resamples)
        scores = [self.score_of(sums_S) for sums_S in draws_RN.astype(np.float64) @ self.statistics_NS]
        low, high = np.quantile(scores, [TAIL, 1 - TAIL])
        return Interval(min(float(low), self.value), max(float(high), self.value))

    def _even(self) -> Array:
        return np.full(self.samples, 1 / self.samples)


def mean_score(values: Sequence[float]) -> CorpusScore:
    """The mean of one number per sample."""
    return ratio_score(values, [1.0] * len(values))


def ratio_score(numerators: Sequence[float], denominators: Sequence[float]) -> CorpusScore:
    """The sum of one number over the sum of another, zero where there is nothing to divide by."""
    return CorpusScore(as_statistics(zip(numerators, denominators, strict=True)), ratio)


def ratio(sums_S: Array) -> float:
    return float(sums_S[0] / sums_S[1]) if sums_S[1] else 0.0


def as_statistics(rows: Any) -> Array:
    """Rows of numbers, one row a sample, as an array [N, S]."""
    return np.array(list(rows), dtype=np.float64)
