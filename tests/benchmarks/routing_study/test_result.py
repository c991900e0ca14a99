"""Results on disk: what is written is read; and what is kept of a log."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.routing_study.result import CURVE_POINTS, TrainingSummary, read_result, write_result
from model.training.loop.log import LogLine
from tests.benchmarks.routing_study.conftest import result_of


def line(step: int, tokens_per_second: float) -> LogLine:
    return LogLine(
        step=step,
        tokens=100 * step,
        loss=5.0,
        mean_k=2.0 + step,
        max_violation=0.5,
        tokens_per_second=tokens_per_second,
    )


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    for result in (result_of("relu", 1, 2.0), result_of("dense-total", 2, 2.0)):
        write_result(result, tmp_path)
        assert read_result(tmp_path) == result


def test_figures_are_kept_to_six_digits(tmp_path: Path) -> None:
    write_result(replace(result_of("relu", 1, 2.0), flops_per_token=1234567.89, agreement={"0.5": 1 / 3}), tmp_path)
    found = read_result(tmp_path)
    assert (found.flops_per_token, found.agreement["0.5"]) == (1234570.0, 0.333333)


def test_summary_of_a_log() -> None:
    summary = TrainingSummary.of([line(1, 10.0), line(2, 90.0), line(3, 50.0)])
    assert (summary.mean_k, summary.tokens_per_second) == (4.0, 50.0)
    with pytest.raises(ValueError, match="log is empty"):
        TrainingSummary.of([])


def test_the_curve_of_a_long_log_is_sampled() -> None:
    summary = TrainingSummary.of([replace(line(step, 1.0), loss=float(step)) for step in range(1, 251)])
    assert len(summary.curve_tokens) == len(summary.curve_loss) == 84 <= CURVE_POINTS
    assert (summary.curve_tokens[0], summary.curve_tokens[-1]) == (300, 25_000)
    assert (summary.curve_loss[0], summary.curve_loss[-1]) == (2.0, 250.0)


def test_a_published_result_is_short(tmp_path: Path) -> None:
    long = TrainingSummary.of([line(step, 1.0) for step in range(1, 1001)])
    write_result(replace(result_of("relu", 1, 2.0), training=long), tmp_path)
    assert len((tmp_path / "result.json").read_text().splitlines()) < 60
