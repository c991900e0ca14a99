"""The figures in docs/performance.md are those of the result files."""

import json
from pathlib import Path

import pytest

from benchmarks.document import DOCUMENT, filled

PLACE = "Before.\n<!-- figures: a -->\nold\n<!-- end -->\nAfter.\n"


def stored(directory: Path, script: str, figures: object) -> None:
    known = {"command": f"python -m benchmarks.{script} --x", "processor": "p", "cores": 2, "date": "d", "commit": "c"}
    (directory / "a.json").write_text(json.dumps({"circumstances": known, "figures": figures}))


def test_the_document_is_up_to_date() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    assert filled(document) == document


def test_a_place_is_filled_from_its_file_and_again(tmp_path: Path) -> None:
    figures = {
        "medians": {"ours": {"1 streams, output tokens/s": 30.0}, "theirs": {"1 streams, output tokens/s": 20.0}},
        "ratios": {"theirs": {"1 streams, output tokens/s": [1.4, 1.5, 1.6]}},
    }
    stored(tmp_path, "compare", figures)
    text = filled(PLACE, tmp_path)
    assert "| 1 streams, output tokens/s | 30 | 20 | 1.50 (1.40 to 1.60) |" in text
    assert "old" not in text
    assert text.startswith("Before.")
    assert text.endswith("After.\n")
    assert filled(text, tmp_path) == text
    figures["medians"]["ours"]["1 streams, output tokens/s"] = 31.0
    stored(tmp_path, "compare", figures)
    assert filled(text, tmp_path) != text  # negative control: newer figures show


def test_a_place_without_its_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a\.json"):
        filled(PLACE, tmp_path)


def test_the_step_of_load_is_told_with_its_quality(tmp_path: Path) -> None:
    runs = {
        name: {"waits": {"step": wait}, "ttft": {"step": wait, "quiet again": 0.1}, "generations": generations}
        for name, wait, generations in (("fixed", 9.5, {}), ("adaptive", 4.25, {"2": 10, "1": 1200}))
    }
    figures = {
        "runs": runs,
        "same_bits": {"before": True, "after": False},
        "quality": [{"experts": 1, "scores": {"BLEU": 20.5}}, {"experts": 2, "scores": {"BLEU": 25.0}}],
    }
    stored(tmp_path, "adaptive", figures)
    text = filled(PLACE, tmp_path)
    assert "| wait in the queue in the step, p95, s | 9.50 | 4.25 |" in text
    assert "| generations by experts per token | not counted | 1: 1,200, 2: 10 |" in text
    assert "| same bits as fixed, after the step |  | no |" in text
    assert "| 1 | 20.50 |" in text
