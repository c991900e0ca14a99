"""What fewer or more experts per token cost."""

from model.evaluation.experts import ExpertsRow, experts_row, experts_table
from model.evaluation.report import EvaluationReport
from model.evaluation.scores import Score


def score(source: str, metric: str, value: float) -> Score:
    return Score(source, "en", metric, value, None, 10, "higher")


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
    assert "By experts per token" not in EvaluationReport("m", "valid", 1.0, report.scores).to_markdown()
