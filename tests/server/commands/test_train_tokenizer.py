"""`routelm train-tokenizer`: a tokenizer or one line that says why not."""

import json
from pathlib import Path

import pytest
import tokenizers
from typer.testing import CliRunner

from server.cli import app


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "generate" / "rhymes-en.train.jsonl"
    path.parent.mkdir(parents=True)
    rows = [{"task": "generate", "text": f"Rain, rain, go away, number {n}."} for n in range(50)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path / "data"


def test_it_writes_a_tokenizer_and_says_where(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokenizer"
    result = CliRunner().invoke(app, ["train-tokenizer", str(data), str(out), "--vocab-size", "600"])
    assert result.exit_code == 0
    assert f"tokenizer in {out}" in result.output
    assert tokenizers.Tokenizer.from_file(str(out / "tokenizer.json")).get_vocab_size() <= 600


def test_a_tokenizer_that_is_there_stays(data: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("kept")
    result = CliRunner().invoke(app, ["train-tokenizer", str(data), str(tmp_path)])
    assert result.exit_code == 2
    assert "has a tokenizer.json: name a new directory" in result.output
    assert (tmp_path / "tokenizer.json").read_text() == "kept"


def test_data_without_texts_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    result = CliRunner().invoke(app, ["train-tokenizer", str(empty), str(tmp_path / "out")])
    assert result.exit_code == 2
    assert str(empty) in result.output
    assert "Traceback" not in result.output
