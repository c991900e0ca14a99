"""The whole way without any data: made-up text, tokenizer, training, a model that loads."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from model.bundled_recipe.recipes import recipe_named
from model.generate import generate
from model.loading.load import load_network
from model.text.tokenizer import Tokenizer
from model.training.data.prepare import ExtraSource, source_names
from model.training.data.sample_data import write_sample_data
from model.training.pipeline import ensure_prepared, train
from tests.model.training.conftest import BUNDLED, write_rows


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


def test_a_run_is_not_begun_among_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path} holds other files than those of a run: name a new directory"):
        train(recipe_named("tiny", 2000), Path(), data_dir=None, tokenizer_dir=None)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_tokenizer_that_does_not_fit_the_network_or_the_run_is_refused(tmp_path: Path) -> None:
    recipe, named = recipe_named("tiny", 500), {"data_dir": write_sample_data(tmp_path / "sample"), "log": print}
    with pytest.raises(ValueError, match="has 7680 tokens, and the network of this recipe 1024"):
        train(recipe, tmp_path / "run", tokenizer_dir=BUNDLED, **named)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()
    wide = replace(recipe, model=replace(recipe.model, vocab_size=7680))
    prepared = ensure_prepared(tmp_path / "sample", BUNDLED, tmp_path / "run" / "data", print)
    meta = (prepared / "meta.json").read_bytes()
    (tmp_path / "run" / "log.jsonl").touch()
    with pytest.raises(ValueError, match="was begun with another tokenizer"):
        train(wide, tmp_path / "run", tokenizer_dir=None, **named)  # type: ignore[arg-type]
    assert (prepared / "meta.json").read_bytes() == meta


def test_extra_sources_go_with_real_data_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up data has a few hundred lines, and the bundled recipes' sources hundreds of thousands."""
    monkeypatch.setattr("model.training.pipeline.Trainer", lambda *values, **named: 1 / 0)
    extra = ExtraSource("generate/more-en", lambda kept: [{"task": "generate", "text": "Once more."}])
    prepared: dict[str, list[str]] = {}
    for name, data_dir in (("made-up", None), ("real", write_sample_data(tmp_path / "sample"))):
        with pytest.raises(ZeroDivisionError):
            train(
                recipe_named("bundled", 500),
                tmp_path / name,
                data_dir=data_dir,
                tokenizer_dir=BUNDLED,
                extra_sources=(extra,),
                log=lambda line: None,
            )
        prepared[name] = source_names(tmp_path / name / "data", "train")
    assert sorted([*prepared["made-up"], extra.name]) == prepared["real"]


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


def write_stories(data_dir: Path, **heroes: str) -> Path:
    """A file of a hero's stories for each name."""
    for name, hero in heroes.items():
        rows = [{"task": "generate", "text": f"{hero} number {i} went home with {i * 7} apples."} for i in range(9)]
        write_rows(data_dir / "generate" / f"{name}.train.jsonl", rows)
    return data_dir


def test_data_that_was_prepared_from_the_same_files_is_taken(tmp_path: Path) -> None:
    shown: list[str] = []
    for directory in ("first", "copy"):
        ensure_prepared(write_stories(tmp_path / directory, a="Alice"), BUNDLED, tmp_path / "out", shown.append)
    assert [line.partition(":")[0] for line in shown] == ["generate/a.train"]


@pytest.mark.parametrize(
    ("first", "second", "changed"),
    [
        ({"a": "Alice"}, {"a": "Bob"}, "a"),
        ({"a": "Alice"}, {"a": "Alice", "b": "Bob"}, "b"),
        ({"a": "Alice", "b": "Bob"}, {"a": "Alice"}, "b"),
    ],
)
def test_data_that_was_prepared_from_other_files_is_refused_and_kept(
    tmp_path: Path, first: dict[str, str], second: dict[str, str], changed: str
) -> None:
    meta = tmp_path / "out" / "meta.json"
    ensure_prepared(write_stories(tmp_path / "first", **first), BUNDLED, tmp_path / "out", lambda line: None)
    before = meta.read_bytes()
    with pytest.raises(ValueError, match=rf"was prepared from other files than .* generate/{changed}\.train\.jsonl"):
        ensure_prepared(write_stories(tmp_path / "second", **second), BUNDLED, tmp_path / "out", lambda line: None)
    assert meta.read_bytes() == before


def test_data_without_a_record_of_its_files_is_used_and_the_log_says_so(tmp_path: Path) -> None:
    out = tmp_path / "out"
    ensure_prepared(write_stories(tmp_path / "first", a="Alice"), BUNDLED, out, lambda line: None)
    meta = json.loads((out / "meta.json").read_text())
    del meta["files"]
    (out / "meta.json").write_text(json.dumps(meta))
    shown: list[str] = []
    ensure_prepared(write_stories(tmp_path / "second", a="Bob"), BUNDLED, out, shown.append)
    [line] = shown
    assert "is used as it is" in line


def test_a_run_goes_on_with_the_data_it_has_where_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_prepared(write_stories(tmp_path / "mine", a="Alice"), BUNDLED, tmp_path / "run" / "data", lambda line: None)
    monkeypatch.setattr("model.training.pipeline.Trainer", lambda *values, **named: 1 / 0)
    shown: list[str] = []
    with pytest.raises(ZeroDivisionError):
        train(recipe_named("bundled", 500), tmp_path / "run", data_dir=None, tokenizer_dir=BUNDLED, log=shown.append)
    [line] = shown
    assert "is used as it is" in line
    assert not (tmp_path / "run" / "sample").exists()


def test_without_data_nothing_is_deleted_or_made(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    meta = tmp_path / "run" / "data" / "meta.json"
    meta.parent.mkdir(parents=True)
    meta.write_text('{"format": 0, "tokenizer": "", "sources": {}}', encoding="utf-8")
    for tokenizer_dir in (BUNDLED, None):
        with pytest.raises(ValueError, match=r"no <task>/<source>\.train\.jsonl in "):
            train(
                recipe_named("bundled", None),
                tmp_path / "run",
                data_dir=tmp_path / "empty",
                tokenizer_dir=tokenizer_dir,
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
