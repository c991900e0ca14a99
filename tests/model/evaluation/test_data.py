"""Which rows are evaluated: the first ones, of the tasks asked for, none for non-commercial use."""

from pathlib import Path

import pytest

from model.evaluation.data import load_sources
from tests.model.evaluation.fakes import write_rows


def test_all_tasks_without_non_commercial_sources(data_dir: Path) -> None:
    names = [source.name for source in load_sources(data_dir)]
    assert "translate/tatoeba-en-de" in names
    assert "generate/tales-en" in names
    assert not any("-nc" in name for name in names)


def test_first_rows_in_their_order(data_dir: Path) -> None:
    [few] = load_sources(data_dir, ["translate"], samples=2)
    [all_of_them] = load_sources(data_dir, ["translate"])
    assert few.rows == all_of_them.rows[:2]
    assert len(all_of_them.rows) == 6


def test_a_pattern_chooses_sources(data_dir: Path) -> None:
    assert [source.name for source in load_sources(data_dir, ["generate/tal*"])] == ["generate/tales-en"]


def test_training_rows_are_of_the_same_source(data_dir: Path) -> None:
    [films] = load_sources(data_dir, ["analyze"])
    assert len(list(films.training_rows(5))) == 5
    [tales] = load_sources(data_dir, ["generate/tales-en"])
    assert list(tales.training_rows(5)) == []


def test_another_split(tmp_path: Path) -> None:
    write_rows(tmp_path / "generate/x.test.jsonl", [{"task": "generate", "text": "held out"}])
    [source] = load_sources(tmp_path, ["generate"], split="test")
    assert source.rows[0]["text"] == "held out"


def test_unknown_task_names_what_there_is(data_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"no valid rows for 'transalte' .* translate/tatoeba-en-de"):
        load_sources(data_dir, ["transalte"])


def test_no_samples_is_refused(data_dir: Path) -> None:
    with pytest.raises(ValueError, match="samples is 0"):
        load_sources(data_dir, samples=0)
