"""The whole way without any data: made-up text, tokenizer, training, a model that loads."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from model.generate import generate
from model.loading import load_network
from model.tokenizer import Tokenizer
from model.training.pipeline import recipe_named, train
from model.training.recipes import RECIPES
from model.training.sample_data import write_sample_data


def test_a_tiny_run_from_nothing_and_again(tmp_path: Path) -> None:
    said: list[str] = []
    recipe = replace(recipe_named("tiny", 4000), micro_batch_tokens=512)
    directory = train(recipe, tmp_path, data_dir=None, tokenizer_dir=None, say=said.append)
    tokenizer, network = Tokenizer.load(directory), load_network(directory)
    assert tokenizer.vocab_size <= 1024
    assert len(generate(network, tokenizer.encode_document("Once upon"), 5)) == 5
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["tokens"] >= 4000
    train(replace(recipe, tokens=4001), tmp_path, data_dir=tmp_path / "sample", tokenizer_dir=None, say=said.append)
    assert any(line.startswith("going on at step") for line in said)


def test_sample_data_is_in_the_format_and_repeatable(tmp_path: Path) -> None:
    write_sample_data(tmp_path / "a", lines=50)
    write_sample_data(tmp_path / "b", lines=50)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.jsonl"))
    assert len(files) == 10
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=", ".join(RECIPES)):
        recipe_named("huge", None)
