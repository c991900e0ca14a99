"""Quality and speed by the number of experts each token goes to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from model.evaluation.scores import Score
from model.evaluation.tables import table

# A source or more of each task: enough to see what fewer experts cost.
TASKS = (
    *("translate/tatoeba-*", "summarize/wikisplit-fusion-en", "generate/tinystories-en"),
    *("analyze/clinc-domain-en", "analyze/kdconv-topic-zh", "analyze/sentence-polarity-en"),
)


@dataclass(frozen=True, slots=True)
class ExpertsRow:
    """The mean main score of each task with so many experts per token, and how long it took to answer it all."""

    experts: int
    scores: Mapping[str, float]  # by "task metric"
    seconds: float


def experts_row(experts: int, main_scores: Sequence[Score], seconds: float) -> ExpertsRow:
    named = groupby(main_scores, key=lambda score: f"{score.task} {score.metric}")
    return ExpertsRow(experts, {name: _mean(list(scores)) for name, scores in named}, seconds)


def experts_table(rows: Sequence[ExpertsRow]) -> str:
    """Markdown: a row for each number of experts."""
    names = list(rows[0].scores)
    lines = [[str(row.experts), *(f"{row.scores[name]:.2f}" for name in names), f"{row.seconds:.0f}"] for row in rows]
    return table(("experts per token", *names, "seconds for all answers"), lines)


def _mean(scores: Sequence[Score]) -> float:
    return sum(score.value for score in scores) / len(scores)
