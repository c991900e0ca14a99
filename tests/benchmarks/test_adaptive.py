"""Figures of the step of load: waits from a histogram, quality by number of experts, and the plot."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.adaptive import PHASES, Run, Sample, draw_plot, quality, quantile, same_bits


def test_a_quantile_is_linear_within_its_bucket() -> None:
    before = {1.0: 5.0, 2.0: 5.0, math.inf: 5.0}
    after = {1.0: 15.0, 2.0: 25.0, math.inf: 25.0}
    assert quantile(before, after, 0.25) == pytest.approx(0.5)
    assert quantile(before, after, 0.75) == pytest.approx(1.5)
    assert quantile(before, after, 1.0) == pytest.approx(2.0)


def test_beyond_the_last_bound_the_last_bound_is_told() -> None:
    assert quantile({}, {1.0: 1.0, math.inf: 4.0}, 0.9) == 1.0


def test_without_waits_it_is_zero() -> None:
    same = {1.0: 3.0, math.inf: 3.0}
    assert quantile(same, same, 0.95) == 0.0


def test_quality_is_that_of_the_range(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"experts": number, "scores": {}} for number in (1, 2, 3)]
    assert quality(tmp_path, "1:2") == []
    (tmp_path / "quality.json").write_text(json.dumps({"experts": rows}))
    assert quality(tmp_path, "1:2") == rows[:2]


def test_answers_before_and_after_the_step_are_compared_with_those_of_the_fixed_server() -> None:
    two, one = [{"token_logprobs": [-1.25]}], [{"token_logprobs": [-1.5]}]
    fixed = {"before": two, "after": two, "fewest": one}
    expected = {"before": True, "after": True, "fewest": True, "fewest equals before": False}
    assert same_bits(fixed, fixed) == expected
    assert same_bits(fixed, fixed | {"after": one}) == expected | {"after": False}


def test_the_plot_is_written(tmp_path: Path) -> None:
    runs = {}
    for name, experts in (("fixed", None), ("adaptive", 2.0)):
        run = Run([Sample(0.0, 1.0, experts), Sample(0.5, 9.0, experts)])
        run.ttft, run.waits, run.began = (dict.fromkeys(PHASES, 1.5) for _ in range(3))
        runs[name] = run.figures()
    draw_plot(tmp_path / "adaptive.png", {"runs": runs, "experts": "1:2", "seconds": 3.0})
    assert (tmp_path / "adaptive.png").stat().st_size > 1000
