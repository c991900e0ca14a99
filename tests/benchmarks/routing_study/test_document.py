"""The published table cannot drift from the results it is made of."""

import filecmp
from pathlib import Path

import pytest

from benchmarks.routing_study.document import BEGIN, END, NOT_YET, publish, published_table, with_table
from benchmarks.routing_study.study import Study, open_study

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "routing.md"
RESULTS = ROOT / "benchmarks" / "results" / "routing"
PAGE = f"before\n\n{BEGIN}\n\nold\n\n{END}\n\nafter\n"


def test_the_document_holds_the_table_of_the_published_results() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    hint = f"make it anew: routelm compare table {RESULTS.relative_to(ROOT)} --into docs/routing.md"
    assert with_table(text, published_table(RESULTS)) == text, hint


def test_another_table_would_be_noticed(study_dir: Path) -> None:
    """Negative control: the comparison can fail."""
    text = DOCUMENT.read_text(encoding="utf-8")
    assert with_table(text, published_table(study_dir)) != text


def test_a_table_replaces_what_was_between_the_marks_and_nothing_else() -> None:
    once = with_table(PAGE, "| a |\n")
    assert once == f"before\n\n{BEGIN}\n\n| a |\n\n{END}\n\nafter\n"
    assert with_table(once, "| a |\n") == once


def test_a_document_without_marks_is_refused() -> None:
    for page in ("nothing", f"{BEGIN} and no end", f"{END} before {BEGIN}"):
        with pytest.raises(ValueError, match="no place for a table"):
            with_table(page, "x")


def test_without_a_study_there_are_no_figures(tmp_path: Path) -> None:
    assert published_table(tmp_path) == NOT_YET


def test_published_files_make_the_same_table_again(study_dir: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "results", tmp_path / "page.md"
    page.write_text(PAGE)
    written = publish(study_dir, out=out, into=page)
    assert {path.name for path in written} == {"table.md", "quality-speed.png", "experts.png", "page.md"}
    assert published_table(out) == published_table(study_dir) == (out / "table.md").read_text()
    assert published_table(out) in page.read_text()
    assert filecmp.cmp(study_dir / "softmax-top-2-seed1/result.json", out / "softmax-top-2-seed1/result.json")
    assert not list(out.rglob("log.jsonl"))  # results stay small


def test_a_refused_document_is_left_alone(study_dir: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("no marks")
    with pytest.raises(ValueError, match="no place"):
        publish(study_dir, into=page)
    assert page.read_text() == "no marks"


def test_an_unfinished_study_publishes_nothing(tmp_path: Path) -> None:
    open_study(Study(1000), tmp_path / "study")
    with pytest.raises(ValueError, match="is finished"):
        publish(tmp_path / "study", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
