"""The whole way without any data: made-up text, tokenizer, training, a model that loads."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from model.bundled_recipe.recipes import recipe_named
from model.generate import generate
from model.loading.load import load_network
from model.text.tokenizer import Tokenizer
from model.training.data.prepare import source_names
from model.training.data.sample_data import write_sample_data
from model.training.pipeline import ensure_prepared, train
from tests.model.training.conftest import BUNDLED


def test_a_tiny_run_from_nothing_and_again(tmp_path: Path) -> None:
    shown: list[str] = []
    recipe = replace(recipe_named("tiny", 4000), micro_batch_tokens=512)
    directory = train(recipe, tmp_path, data_dir=None, tokenizer_dir=None, log=shown.append)
    tokenizer, network = Tokenizer.load(directory), load_network(directory)
    assert tokenizer.vocab_size <= 1024
    assert len(generate(network, tokenizer.encode_document("Once upon"), 5)) == 5
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["tokens"] >= 4000
    train(replace(recipe, tokens=4001), tmp_path, data_dir=tmp_path / "sample", tokenizer_dir=None, log=shown.append)
    assert any(line.startswith("going on at step") for line in shown)


def test_sample_data_is_in_the_format_and_repeatable(tmp_path: Path) -> None:
    write_sample_data(tmp_path / "a", lines=50)
    write_sample_data(tmp_path / "b", lines=50)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.jsonl"))
    assert len(files) == 10
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


def test_files_that_are_not_prepared_data_are_never_deleted(tmp_path: Path) -> None:
    rows = tmp_path / "generate" / "mine.train.jsonl"
    rows.parent.mkdir()
    rows.write_text('{"task": "generate", "text": "Mine."}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="holds other files than prepared data: name a new directory"):
        ensure_prepared(tmp_path, BUNDLED, tmp_path, lambda line: None)
    assert rows.exists()


def test_without_data_nothing_is_deleted_or_made(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    meta = tmp_path / "run" / "data" / "meta.json"
    meta.parent.mkdir(parents=True)
    meta.write_text('{"format": 0, "tokenizer": "", "sources": {}}', encoding="utf-8")
    for tokenizer_dir in (BUNDLED, None):
        with pytest.raises(ValueError, match=r"no <task>/<source>\.train\.jsonl in "):
            train(
                recipe_named("tiny", None), tmp_path / "run", data_dir=tmp_path / "empty", tokenizer_dir=tokenizer_dir
            )
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == [meta]


def test_a_preparation_that_was_killed_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_sample_data(tmp_path / "sample")
    with monkeypatch.context() as patched:
        patched.setattr("model.training.data.prepare._write", lambda directory, examples: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ensure_prepared(data, BUNDLED, tmp_path / "out", lambda line: None)
    ensure_prepared(data, BUNDLED, tmp_path / "out", lambda line: None)
    assert source_names(tmp_path / "out", "train")
