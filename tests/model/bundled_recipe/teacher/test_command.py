"""The command: from a checkpoint and data to files of rows that training reads."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from model.bundled_recipe.teacher import __main__ as command
from model.bundled_recipe.teacher import texts, tuning
from model.training.data.rows import find_sources, read_source


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two rows of each label and split."""
    kinds = {kind.source: ["one", "two"] for kind in texts.KINDS} | {texts.FILM_SENTENCES: ["subjective", "objective"]}
    for split in ("train", "valid"):
        for source, labels in kinds.items():
            rows = [
                {"task": "analyze", "text": f"a text of {n}", "label": label, "label_set": labels}
                for n in "ab"
                for label in labels
            ]
            _write(tmp_path / f"{source}.{split}.jsonl", rows)
        _write(tmp_path / f"{texts.STORIES}.{split}.jsonl", [{"task": "generate", "text": "Tim ran. " * 40}] * 9)
    return tmp_path


def _write(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_it_writes_a_file_for_every_kind(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "tune", partial(tuning.tune, rows=1, row_tokens=64))
    monkeypatch.setattr(command, "KINDS", [replace(kind, per_label=4) for kind in texts.KINDS])
    monkeypatch.setattr(command, "CERTAIN_OF_PEOPLE", 0.0)
    monkeypatch.setattr(command, "LABELLED_TOKENS", 4)
    out = tmp_path / "out"
    command.main([str(checkpoint), str(data), str(out), "--device", "cpu", "--story-seconds", "0"])
    written = {source.name: list(read_source(source)) for source in find_sources(out, "train")}
    new = {kind.new_source for kind in texts.KINDS}
    assert set(written) == new | {"analyze/taught-reviews-en", "generate/taught-stories-en"}
    assert [row["text"] for row in written["analyze/taught-reviews-en"]] == ["a text of a", "a text of b"]
    assert "of the validation labels are right" in capsys.readouterr().out
