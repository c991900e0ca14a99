"""Results on disk: what is written is read; and what a log says of a run."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.routing_study.result import read_result, training_facts, write_result
from model.training.log import LogLine
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


def test_facts_of_a_log() -> None:
    facts = training_facts([line(1, 10.0), line(2, 90.0), line(3, 50.0)])
    assert (facts.mean_k, facts.tokens_per_second) == (4.0, 50.0)
    with pytest.raises(ValueError, match="log is empty"):
        training_facts([])
