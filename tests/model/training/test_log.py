"""The log of a run, cut back and thinned out."""

import json
from pathlib import Path

from model.training.log import forget_after, read_log, thin_out


def written(path: Path, steps: int) -> Path:
    lines = [
        {"step": n, "tokens": 10 * n} | ({"valid": {"a": 1.0}} if n % 100 == 7 else {}) for n in range(1, steps + 1)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_a_thin_log_keeps_its_end_and_its_validations(tmp_path: Path) -> None:
    path = written(tmp_path / "log.jsonl", 1003)
    thin_out(path, tmp_path / "thin.jsonl", keep=50)
    lines = read_log(tmp_path / "thin.jsonl")
    steps = [line["step"] for line in lines]
    assert steps == sorted(steps)
    assert steps[-1] == 1003
    assert {7, 107, 907} < set(steps)
    assert 50 <= len(lines) <= 65
    thin_out(written(tmp_path / "short.jsonl", 20), tmp_path / "same.jsonl", keep=50)
    assert len(read_log(tmp_path / "same.jsonl")) == 20


def test_steps_that_will_be_done_again_are_forgotten(tmp_path: Path) -> None:
    path = written(tmp_path / "log.jsonl", 9)
    forget_after(path, 6)
    assert [line["step"] for line in read_log(path)] == [1, 2, 3, 4, 5, 6]
    forget_after(tmp_path / "none.jsonl", 6)
    assert read_log(tmp_path / "none.jsonl") == []
