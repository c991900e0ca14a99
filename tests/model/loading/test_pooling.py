"""What the files of sentence-transformers say of a checkpoint, and which of it is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from model.loading.pooling import Pooling

STEPS = [
    {"path": "", "type": "sentence_transformers.models.Transformer"},
    {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]
NORMALIZE = {"path": "2_Normalize", "type": "sentence_transformers.base.modules.normalize.Normalize"}
DENSE = {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}


def checkpoint(directory: Path, steps: Any = STEPS, pooling: Any = None, **files: Any) -> Path:
    (directory / "1_Pooling").mkdir()
    contents = {"modules": steps, "1_Pooling/config": pooling or {"pooling_mode": "lasttoken"}, **files}
    for name, content in contents.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


def test_without_the_files_there_are_no_embeddings(tmp_path: Path) -> None:
    assert Pooling.load(tmp_path) is None


def test_what_is_read(tmp_path: Path) -> None:
    settings = {"prompts": {"query": "Query: ", "document": ""}, "default_prompt_name": "query"}
    directory = checkpoint(
        tmp_path,
        [*STEPS, NORMALIZE],
        {"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": False},
        config={"is_matryoshka": True},
        config_sentence_transformers=settings,
        sentence_bert_config={"max_seq_length": 77},
    )
    assert Pooling.load(directory) == Pooling("mean", True, settings["prompts"], "Query: ", 77, ())  # type: ignore[arg-type]


def test_without_its_settings_the_pooling_is_not_guessed(tmp_path: Path) -> None:
    directory = checkpoint(tmp_path)
    (directory / "1_Pooling" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"1_Pooling/config\.json is missing"):
        Pooling.load(directory)


def test_the_defaults(tmp_path: Path) -> None:
    assert Pooling.load(checkpoint(tmp_path)) == Pooling("lasttoken", normalizes=False)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"steps": [*STEPS, DENSE]}, "has the steps Transformer, Pooling, Dense"),
        ({"steps": {"a": 1}}, "modules.json cannot be read"),
        ({"steps": [STEPS[0], {"path": "../1_Pooling", "type": "Pooling"}]}, "which is no folder of"),
        ({"pooling": {"pooling_mode": "weightedmean"}}, "the pooling mode is 'weightedmean'"),
        ({"pooling": {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}}, "the pooling mode is"),
        ({"pooling": {"pooling_mode_weightedmean_tokens": True}}, "the pooling mode is 'weightedmean'"),
        (
            {"pooling": {"pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": True}},
            "the pooling mode is 'max'",
        ),
        ({"pooling": {"pooling_mode_mean_sqrt_len_tokens": True}}, "the pooling mode is 'mean_sqrt_len'"),
        ({"pooling": {"pooling_mode": "mean", "include_prompt": False}}, "include_prompt is false"),
        ({"config": {"is_causal": False}}, "both directions"),
        ({"config_sentence_transformers": {"default_prompt_name": "query"}}, "none of the prompts"),
        ({"config_sentence_transformers": {"default_prompt_name": ["query"]}}, "none of the prompts"),
        ({"config_sentence_transformers": {"prompts": ["query"]}}, "texts by name are expected"),
        ({"sentence_bert_config": {"max_seq_length": "512"}}, "max_seq_length is '512': a whole number"),
        ({"sentence_bert_config": {"max_seq_length": 0}}, "max_seq_length is 0: a whole number from 1"),
        ({"config": {"matryoshka_dimensions": 64}}, "matryoshka_dimensions is 64: a list"),
        ({"config": {"matryoshka_dimensions": [64, "32"]}}, "matryoshka_dimensions is '32': a whole number"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_not_served_is_refused(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Pooling.load(checkpoint(tmp_path, **changes))
