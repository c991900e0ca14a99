"""A whole evaluation: every task, its progress, what the model cannot do, and what a copying model is told."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from model.evaluation.progress import Advance, RichProgress
from model.evaluation.report import EvaluationReport
from model.evaluation.requests import GenerationRequest, Likelihood, ModelError, NotSupportedError, ScoringRequest
from model.evaluation.run import evaluate
from tests.model.evaluation.fakes import CountingProgress, FakeModel


class ChatOnlyModel(FakeModel):
    def score(self, requests: Sequence[ScoringRequest], advance: Advance) -> list[Likelihood]:
        raise NotSupportedError("no likelihoods here")


class FailingModel(FakeModel):
    def score(self, requests: Sequence[ScoringRequest], advance: Advance) -> list[Likelihood]:
        raise ModelError("/v1/completions answered 500")


class DeadModel(FailingModel):
    def generate(self, requests: Sequence[GenerationRequest], advance: Advance) -> list[str]:
        raise ModelError("/v1/completions failed")


def test_every_task_is_scored(data_dir: Path) -> None:
    report = evaluate(FakeModel(), data_dir)
    assert {score.task for score in report.scores} == {
        "translate",
        "summarize",
        "analyze",
        "chat",
        "generate",
        "fairness",
    }
    assert {example.task for example in report.examples} == {"translate", "summarize", "analyze", "chat", "generate"}
    assert (report.model, report.split, report.skipped) == ("fake", "valid", ())
    assert all(score.samples > 0 for score in report.scores)


def test_the_same_evaluation_gives_the_same_scores(data_dir: Path) -> None:
    tasks = ["translate", "analyze", "generate"]
    assert evaluate(FakeModel(), data_dir, tasks).scores == evaluate(FakeModel(), data_dir, tasks).scores


def test_samples_and_tasks_are_limited(data_dir: Path) -> None:
    report = evaluate(FakeModel(), data_dir, ["translate"], samples=3)
    assert {score.samples for score in report.scores} == {3}
    assert {score.task for score in report.scores} == {"translate"}


def test_fairness_needs_no_data(tmp_path: Path) -> None:
    assert {score.task for score in evaluate(FakeModel(), tmp_path, ["fairness"]).scores} == {"fairness"}


def test_progress_counts_every_request(data_dir: Path) -> None:
    progress = CountingProgress()
    evaluate(FakeModel(), data_dir, progress=progress)
    assert progress.totals["translate/tatoeba-en-de en-de"] == 6
    assert progress.done == progress.totals


def test_progress_is_shown_with_rate_and_time_left(data_dir: Path) -> None:
    console = Console(record=True, width=120)
    with RichProgress(console) as progress:
        advance = progress.stage("translate/tatoeba-en-de", 4)
        advance(4)
    shown = console.export_text()
    assert "translate/tatoeba-en-de" in shown
    assert "4/4" in shown
    assert "/s" in shown


def test_what_a_model_cannot_do_is_said_and_the_rest_is_scored(data_dir: Path) -> None:
    report = evaluate(ChatOnlyModel(), data_dir)
    assert [skipped.what for skipped in report.skipped] == [
        "chat: likelihood of answers",
        "generate: likelihood of texts",
    ]
    assert "no likelihoods here" in report.to_markdown()
    assert {score.metric for score in report.scores if score.task == "generate"} == {
        "distinct-1",
        "distinct-2",
        "repetition-4",
    }


def test_what_a_server_fails_at_is_said_and_the_rest_is_kept(data_dir: Path) -> None:
    report = evaluate(FailingModel(), data_dir, ["translate", "generate"])
    assert [(skipped.what, skipped.reason) for skipped in report.skipped] == [
        ("generate: likelihood of texts", "/v1/completions answered 500"),
    ]
    assert {score.task for score in report.scores} == {"translate", "generate"}
    with pytest.raises(ModelError, match=r"nothing could be scored\. generate: likelihood of texts: /v1/completions"):
        evaluate(DeadModel(), data_dir, ["generate"])


def test_copying_model_is_told_that_it_does_not_beat_copying(data_dir: Path) -> None:
    report = evaluate(FakeModel(), data_dir, ["translate"])
    assert len(report.unbeaten) == len(report.scores) == 4
    text = report.to_markdown()
    assert text.count("**not better**") == 4
    assert "is not clearly better than copy source" in text


def test_unknown_task_is_refused_before_anything_runs(data_dir: Path) -> None:
    with pytest.raises(ValueError, match="no valid rows for 'dance'"):
        evaluate(FakeModel(lambda request: pytest.fail("asked")), data_dir, ["dance"])


def test_report_round_trips(data_dir: Path) -> None:
    report = evaluate(FakeModel(), data_dir)
    assert EvaluationReport.from_json(report.to_json()) == report
    with pytest.raises(ValueError, match="no evaluation report"):
        EvaluationReport.from_json('{"model": "x"}')
    with pytest.raises(ValueError, match="no evaluation report"):
        EvaluationReport.from_json("not json")
