"""Results and logs on disk: what is written is read, and what was cut off is dropped."""

from dataclasses import replace
from pathlib import Path

import pytest

from model.comparison.result import LogLine, RunLog, read_result, training_facts, write_result
from tests.model.comparison.conftest import result_of


def line(step: int, tokens_per_second: float = 50.0) -> LogLine:
    return LogLine(step, 100 * step, 5.0, 2.0 + step, 0.5, tokens_per_second)


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    for result in (result_of("relu", 1, 2.0), result_of("dense-total", 2, 2.0)):
        write_result(result, tmp_path)
        assert read_result(tmp_path) == result


def test_figures_are_kept_to_six_digits(tmp_path: Path) -> None:
    write_result(replace(result_of("relu", 1, 2.0), flops_per_token=1234567.89, agreement={"0.5": 1 / 3}), tmp_path)
    found = read_result(tmp_path)
    assert (found.flops_per_token, found.agreement["0.5"]) == (1234570.0, 0.333333)


def test_a_resumed_run_forgets_what_it_will_do_again(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl")
    log.forget_after(0)
    for step in (1, 2, 3):
        log.append(line(step))
    log.forget_after(2)
    log.append(line(3, 70.0))
    assert list(log.lines()) == [line(1), line(2), line(3, 70.0)]


def test_a_line_that_was_cut_off_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = RunLog(path)
    log.append(line(1))
    path.write_text(path.read_text() + path.read_text()[:20])
    assert list(log.lines()) == [line(1)]
    log.forget_after(1)
    log.append(line(2))
    assert list(log.lines()) == [line(1), line(2)]


def test_facts_of_a_log() -> None:
    facts = training_facts([line(1, 10.0), line(2, 90.0), line(3, 50.0)])
    assert (facts.mean_k, facts.tokens_per_second) == (4.0, 50.0)
    with pytest.raises(ValueError, match="log is empty"):
        training_facts([])
