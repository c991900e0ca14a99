"""Tokens that only one of a tokenizer's files names are known, as transformers knows them."""

import json
from pathlib import Path
from typing import Any

import pytest

from model.text.tokenizer import Tokenizer
from model.text.tokenizer_files import TokenizerFiles, named_tokens
from tests.model.text.kinds import KINDS, byte_fallback, byte_level

FIRST_FREE = byte_level().get_vocab_size()
FLAGS = {"normalized": False, "lstrip": False, "rstrip": False, "single_word": False}
DESCRIBED = {
    str(FIRST_FREE): {"content": "<|turn|>", "special": True, **FLAGS},
    str(FIRST_FREE + 1): {"content": "<think2>", "special": False, **FLAGS},
}
LISTED = {"<|turn|>": FIRST_FREE, "<think2>": FIRST_FREE + 1}


def checkpoint(directory: Path, kind: str = "byte level", **files: Any) -> Path:
    (directory / "tokenizer.json").write_text(KINDS[kind]().to_str())
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": {"added_tokens_decoder": DESCRIBED}},
        {"added_tokens": LISTED, "tokenizer_config": {"additional_special_tokens": ["<|turn|>"]}},
        {"added_tokens": LISTED, "special_tokens_map": {"pad_token": {"content": "<|turn|>"}}},
        {"added_tokens": LISTED, "tokenizer_config": {"extra_special_tokens": {"turn_token": "<|turn|>"}}},
    ],
)
def test_added_tokens_are_read_from_every_file(tmp_path: Path, files: dict[str, Any]) -> None:
    tokenizer = Tokenizer.load(checkpoint(tmp_path, **files))
    assert tokenizer.encode("<|turn|><think2>", allow_special=True) == [FIRST_FREE, FIRST_FREE + 1]
    assert "<|turn|>" in tokenizer.special_tokens
    assert "<think2>" not in tokenizer.special_tokens


@pytest.mark.parametrize("files", [{"tokenizer_config": {"added_tokens_decoder": DESCRIBED}}, {"added_tokens": LISTED}])
def test_transformers_gives_the_same_ids(tmp_path: Path, files: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    files = {
        "tokenizer_config": {"tokenizer_class": "PreTrainedTokenizerFast"} | files.pop("tokenizer_config", {}),
        **files,
    }
    theirs = transformers.AutoTokenizer.from_pretrained(checkpoint(tmp_path, **files))
    text = "hello <|turn|> there<think2>"
    assert Tokenizer.load(tmp_path).encode(text, allow_special=True) == theirs(text).input_ids


@pytest.mark.parametrize(
    ("listed", "files"),
    [
        ({"special": False}, {"added_tokens_decoder": {"0": {"content": "</s>", **FLAGS, "special": True}}}),
        ({"rstrip": True}, {"added_tokens_decoder": {"0": {"content": "</s>", **FLAGS, "special": True}}}),
        ({}, {"added_tokens_decoder": {"0": {"content": "</s>", **FLAGS, "rstrip": True, "special": True}}}),
        ({}, {"added_tokens_decoder": {"0": {"content": "</s>", **FLAGS, "special": False}}}),
        ({"special": False, "rstrip": True}, {"eos_token": "</s>"}),
        ({}, {"eos_token": "</s>", "added_tokens_decoder": {"0": {"content": "</s>", **FLAGS, "special": False}}}),
    ],
)
def test_the_flags_of_an_added_token_are_those_of_transformers(
    tmp_path: Path, listed: dict[str, bool], files: dict[str, Any]
) -> None:
    transformers = pytest.importorskip("transformers")
    content = json.loads(KINDS["byte level"]().to_str())
    content["added_tokens"] = [
        token | (listed if token["content"] == "</s>" else {}) for token in content["added_tokens"]
    ]
    directory = checkpoint(tmp_path, tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast"} | files)
    (directory / "tokenizer.json").write_text(json.dumps(content))
    theirs, ours = transformers.AutoTokenizer.from_pretrained(directory), Tokenizer.load(directory)
    token_id = ours.added_tokens["</s>"]
    assert repr(ours.added_token_flags[token_id]) == repr(theirs.added_tokens_decoder[token_id])
    assert ours.encode("a </s> b", allow_special=True) == theirs("a </s> b", add_special_tokens=False).input_ids


def test_an_added_token_whose_id_is_not_free_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = Tokenizer.load(checkpoint(tmp_path, added_tokens={"<|far|>": FIRST_FREE + 7}))
    assert tokenizer.vocab_size == FIRST_FREE
    assert "'<|far|>' is left out" in caplog.text


def test_a_named_token_in_the_vocabulary_becomes_special(tmp_path: Path) -> None:
    content = json.loads(KINDS["unigram"]().to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "<|im_end|>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.encode("<|im_end|>", allow_special=True) == list(tokenizer.eos_token_ids)
    assert tokenizer.special_tokens["<|im_end|>"] == tokenizer.eos_token_ids[0]


def test_a_named_token_that_no_file_gives_an_id_is_not_added(tmp_path: Path) -> None:
    assert Tokenizer.load(checkpoint(tmp_path, tokenizer_config={"pad_token": "[PAD]"})).vocab_size == FIRST_FREE


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"special_tokens_map": {"bos_token": "<s>"}}, {"bos_token": "<s>"}),
        ({"special_tokens_map": {"bos_token": {"content": "<s>"}}, "tokenizer_config": {"eos_token": "</s>"}},
         {"bos_token": "<s>", "eos_token": "</s>"}),
        ({"special_tokens_map": {"bos_token": "<s>"}, "tokenizer_config": {"bos_token": "<t>"}}, {"bos_token": "<s>"}),
        ({"special_tokens_map": {"bos_token": "<s>"}, "tokenizer_config": {"added_tokens_decoder": {}}}, {}),
        ({"tokenizer_config": {"bos_token": None, "unk_token": 5}}, {}),
    ],
)  # fmt: skip
def test_named_tokens_are_taken_where_transformers_takes_them(
    tmp_path: Path, files: dict[str, Any], expected: dict[str, str]
) -> None:
    assert named_tokens(checkpoint(tmp_path, **files)) == expected


def test_the_end_token_of_the_older_file_ends_a_generation(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(checkpoint(tmp_path, special_tokens_map={"eos_token": "</s>"}))
    assert tokenizer.eos_token_ids == (tokenizer.special_tokens["</s>"],)


@pytest.mark.parametrize(("adds_bos", "begins"), [(True, True), (False, False), (None, True), ("yes", True)])
def test_whether_a_text_begins_with_bos_is_said_by_the_config(tmp_path: Path, adds_bos: object, begins: bool) -> None:
    (tmp_path / "tokenizer.json").write_text(byte_fallback("normalizer").to_str())
    settings = {"bos_token": "<s>"} | ({} if adds_bos is None else {"add_bos_token": adds_bos})
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = Tokenizer.load(tmp_path)
    assert (tokenizer.encode_document("hello")[0] == tokenizer.special_tokens["<s>"]) == begins


def test_a_complete_tokenizer_json_stays_as_it_is(tmp_path: Path) -> None:
    files = TokenizerFiles.load(checkpoint(tmp_path, tokenizer_config={"eos_token": "</s>"}))
    assert files.complete_json() == files.tokenizer_json


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": {"added_tokens_decoder": {"5": {}}}},
        {"tokenizer_config": {"added_tokens_decoder": {"5": "</s>"}}},
        {"tokenizer_config": {"extra_special_tokens": 3}},
        {"generation_config": {"eos_token_id": [[2]]}},
        {"config": {"text_config": [1]}},
    ],
    ids=str,
)
def test_values_of_a_wrong_kind_are_refused_in_a_sentence(tmp_path: Path, files: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"the tokenizer of .* cannot be read"):
        Tokenizer.load(checkpoint(tmp_path, **files))
