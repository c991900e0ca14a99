"""Scores with bootstrap intervals, the baselines next to them, and examples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model.training.data.rows import task_of

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


Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True, slots=True)
class Baseline:
    """The same metric of a trivial method on the same samples."""

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Score:
    """One score. `baselines` have to be beaten; `comparisons`, such as the score of human text, are for orientation."""

    source: str  # such as "translate/tatoeba-en-zh"
    part: str  # what of it: a direction or a language
    metric: str
    value: float
    interval: Interval | None
    samples: int
    better: Better
    baselines: tuple[Baseline, ...] = ()
    comparisons: tuple[Baseline, ...] = ()
    signature: str = ""  # how exactly it was computed
    digits: int = 2

    @property
    def task(self) -> str:
        return task_of(self.source)

    def beats(self, baseline: Baseline) -> bool:
        """Whether the whole interval lies on the better side of the baseline."""
        low, high = (self.interval.low, self.interval.high) if self.interval else (self.value, self.value)
        return low > baseline.value if self.better == "higher" else high < baseline.value

    @property
    def unbeaten(self) -> tuple[Baseline, ...]:
        """The baselines that the model is not clearly better than."""
        return tuple(baseline for baseline in self.baselines if not self.beats(baseline))

    def show(self, value: float) -> str:
        """A number with the digits of this score."""
        return f"{value:.{self.digits}f}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample as the model saw and answered it."""

    source: str
    part: str
    prompt: str
    expected: str
    answer: str

    @property
    def task(self) -> str:
        return task_of(self.source)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of one evaluator. `examples` are the first rows, not selected; `failures` are the worst answers."""

    scores: tuple[Score, ...] = ()
    examples: tuple[Sample, ...] = ()
    failures: tuple[Sample, ...] = ()


def join(outcomes: Sequence[Outcome]) -> Outcome:
    return Outcome(
        scores=tuple(score for outcome in outcomes for score in outcome.scores),
        examples=tuple(example for outcome in outcomes for example in outcome.examples),
        failures=tuple(example for outcome in outcomes for example in outcome.failures),
    )


@dataclass(frozen=True, slots=True)
class ScoreOf:
    """Makes the scores of one part of one source."""

    source: str
    part: str

    def __call__(
        self,
        metric: str,
        measured: CorpusScore,
        *,
        better: Better = "higher",
        baselines: Sequence[Baseline] = (),
        comparisons: Sequence[Baseline] = (),
        signature: str = "",
        digits: int = 2,
    ) -> Score:
        return Score(
            source=self.source,
            part=self.part,
            metric=metric,
            value=measured.value,
            interval=measured.interval(),
            samples=measured.samples,
            better=better,
            baselines=tuple(baselines),
            comparisons=tuple(comparisons),
            signature=signature,
            digits=digits,
        )
