"""From an evaluation to what a server tells its clients: the main score of every source, and whether it is any good."""

from model.evaluation.report import EvaluationReport
from model.evaluation.scores import Score
from model.loading.quality import Quality, TaskScore

MAIN_METRICS = {
    "translate": "BLEU",
    "summarize": "ROUGE-1",
    "analyze": "accuracy",
    "chat": "bits per byte",
    "generate": "bits per byte",
}


def quality_of(report: EvaluationReport) -> Quality:
    """The main scores that have a baseline, each beside the best one; sums over sources are left out."""
    return Quality(tuple(_measured(score) for score in main_scores(report) if score.baselines))


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
