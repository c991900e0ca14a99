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
