"""Main scores, experts per token and quantization, side by side."""

from dataclasses import replace

from model.evaluation.report import EvaluationReport, experts_table
from model.evaluation.scores import Baseline, Better, Interval, Score
from model.evaluation.verdicts import experts_row, perplexities, quality_of
from model.loading.quality import ExpertsRow

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


def test_a_row_has_the_mean_of_each_task() -> None:
    scores = [
        score("analyze/a", "accuracy", 20.0),
        score("analyze/b", "accuracy", 40.0),
        score("translate/c", "BLEU", 9.0),
    ]
    row = experts_row(3, scores, 12.4)
    assert row == ExpertsRow(3, {"analyze accuracy": 30.0, "translate BLEU": 9.0}, 12.4)
    lines = experts_table([row]).splitlines()
    assert lines[0] == "| experts per token | analyze accuracy | translate BLEU | seconds for all answers |"
    assert lines[2] == "| 3 | 30.00 | 9.00 | 12 |"


def test_a_report_keeps_the_rows() -> None:
    row = ExpertsRow(1, {"translate BLEU": 9.0}, 2.0)
    report = EvaluationReport("m", "valid", 1.0, (score("translate/c", "BLEU", 9.0),), experts=(row,))
    assert EvaluationReport.from_json(report.to_json()) == report
    assert "By experts per token" in report.to_markdown()
    assert quality_of(report).experts == (row,)
    assert "By experts per token" not in EvaluationReport("m", "valid", 1.0, report.scores).to_markdown()


def report(**values: float) -> EvaluationReport:
    scores = [Score(f"generate/{name}", "en", "perplexity", value, None, 5, "lower") for name, value in values.items()]
    other = Score("generate/a", "en", "bits per byte", 1.0, None, 5, "lower")
    return EvaluationReport("m", "valid", 1.0, (*scores, other))


def test_common_sources_side_by_side() -> None:
    lines = perplexities(report(a=10.0, b=20.0), report(a=10.5, c=7.0), "int8").splitlines()
    assert lines[0] == "| source | part | perplexity as stored | as int8 | change |"
    assert lines[2:] == ["| generate/a | en | 10.00 | 10.50 | +5.00% |"]
