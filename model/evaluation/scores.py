"""What an evaluation finds: scores with intervals, the baselines next to them, and examples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from model.evaluation.bootstrap import CorpusScore, Interval
from model.training.rows import task_of

Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True, slots=True)
class Baseline:
    """The same score of something that is not the model, on the same samples."""

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Score:
    """One number. It has to beat `baselines`; `comparisons` only help to read it, such as the score of human text."""

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
class Example:
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
    """What one evaluator found. `examples` are first rows, not chosen ones; `failures` are the worst answers."""

    scores: tuple[Score, ...] = ()
    examples: tuple[Example, ...] = ()
    failures: tuple[Example, ...] = ()


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
