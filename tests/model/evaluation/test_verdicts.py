"""Which scores become a verdict on a task."""

from dataclasses import replace

from model.evaluation.bootstrap import Interval
from model.evaluation.report import EvaluationReport
from model.evaluation.scores import Baseline, Better, Score
from model.evaluation.verdicts import quality_of

LEAD, COPY = Baseline("lead", 18.0), Baseline("copy", 15.0)


def score(source: str, metric: str, value: float, better: Better = "higher") -> Score:
    interval = Interval(value - 2, value + 2)
    return Score(source, "en", metric, value, interval, 10, better, (COPY, LEAD))


def test_main_scores_are_held_against_the_best_baseline() -> None:
    scores = (
        score("summarize/a", "ROUGE-1", 21.0),
        score("summarize/b", "ROUGE-1", 19.0),  # above it, but not by its interval
        score("summarize/a", "ROUGE-2", 1.0),
        score("chat/c", "bits per byte", 12.0, "lower"),
        score("chat/d", "bits per byte", 16.0, "lower"),
        score("chat/all", "bits per byte", 1.0, "lower"),
    )
    found = quality_of(EvaluationReport("m", "valid", 1.0, scores)).measured
    assert [(entry.source, entry.baseline, entry.better) for entry in found] == [
        ("a", "lead", True),
        ("b", "lead", False),
        ("c", "copy", True),
        ("d", "copy", False),
    ]
    assert [(entry.low, entry.high) for entry in found] == [(19.0, 23.0), (17.0, 21.0), (10.0, 14.0), (14.0, 18.0)]


def test_a_score_without_an_interval_is_told_without_one() -> None:
    plain = replace(score("summarize/a", "ROUGE-1", 21.0), interval=None)
    (found,) = quality_of(EvaluationReport("m", "valid", 1.0, (plain,))).measured
    assert (found.low, found.high, found.better) == (None, None, True)
