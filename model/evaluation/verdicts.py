"""What follows from reports: the main score of every source, and what other settings of the same model cost."""

from collections.abc import Sequence
from itertools import groupby

from model.evaluation.report import EvaluationReport
from model.evaluation.scores import Score
from model.evaluation.tables import table
from model.loading.quality import ExpertsRow, Quality, TaskScore

LIKELIHOOD_TASKS = ("chat", "generate")
# A source or more of each task: enough to see what fewer experts cost.
EXPERTS_TASKS = (
    *("translate/tatoeba-*", "summarize/wikisplit-fusion-en", "generate/tinystories-en"),
    *("analyze/clinc-domain-en", "analyze/kdconv-topic-zh", "analyze/sentence-polarity-en"),
)
MAIN_METRICS = {
    "translate": "BLEU",
    "summarize": "ROUGE-1",
    "analyze": "accuracy",
    "chat": "bits per byte",
    "generate": "bits per byte",
    "interview": "right answers in %",
}


def quality_of(report: EvaluationReport) -> Quality:
    """The main scores that have a baseline, each beside the best one; sums over sources are left out."""
    return Quality(tuple(_measured(score) for score in main_scores(report) if score.baselines), report.experts)


def main_scores(report: EvaluationReport) -> list[Score]:
    """One score of every part of every source."""
    mains = [score for score in report.scores if score.metric == MAIN_METRICS.get(score.task)]
    return [score for score in mains if not score.source.endswith("/all")]


def _measured(score: Score) -> TaskScore:
    sign = 1 if score.better == "higher" else -1
    best = max(score.baselines, key=lambda baseline: sign * baseline.value)
    numbers = {"value": score.value, "baseline_value": best.value}
    if score.interval is not None:
        numbers |= {"low": score.interval.low, "high": score.interval.high}
    return TaskScore(
        task=score.task,
        source=score.source.partition("/")[2],
        part=score.part,
        metric=score.metric,
        baseline=best.name,
        better=score.beats(best),
        **{name: round(number, score.digits) for name, number in numbers.items()},
    )


def perplexities(before: EvaluationReport, after: EvaluationReport, scheme: str) -> str:
    """A Markdown table of the sources that both reports have."""
    known = {(score.source, score.part): score.value for score in before.scores if score.metric == "perplexity"}
    rows = [
        (score.source, score.part, f"{was:.2f}", f"{score.value:.2f}", f"{score.value / was - 1:+.2%}")
        for score in after.scores
        if score.metric == "perplexity" and (was := known.get((score.source, score.part))) is not None
    ]
    return table(("source", "part", "perplexity as stored", f"as {scheme}", "change"), rows)


def experts_row(experts: int, main_scores: Sequence[Score], seconds: float) -> ExpertsRow:
    named = groupby(main_scores, key=lambda score: f"{score.task} {score.metric}")
    return ExpertsRow(experts, {name: _mean(list(scores)) for name, scores in named}, seconds)


def _mean(scores: Sequence[Score]) -> float:
    return sum(score.value for score in scores) / len(scores)
