"""Tokenizers of GGUF files: llama.cpp's vocabularies give the ids that it expects, or are refused by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from model.checkpoints.gguf.file import GgufFile
from model.checkpoints.gguf.tokenizer import generation_config, tokenizer_config, tokenizer_json
from model.checkpoints.reader import CheckpointError
from model.text.chat_template import ChatTemplate
from model.text.tokenizer import Tokenizer
from tests.real_models import LLAMA_CPP, needs_llama_cpp

SEPARATOR = "\n__ggml_vocab_test__\n"
CLAIMED = (
    "command-r", "deepseek-coder", "gpt-2", "llama-bpe", "llama-spm", "mpt", "phi-3", "qwen2", "qwen35", "refact",
    "starcoder",
)  # fmt: skip
REFUSED = {  # by kind, or by pre-tokenizer
    "aquila": "default", "bert-bge": "bert", "deepseek-llm": "deepseek-llm", "falcon": "falcon", "gemma-4": "gemma4",
    "gpt-neox": "default", "nomic-bert-moe": "t5",
}  # fmt: skip
NEEDS_TOOLS = {  # templates that cannot be rendered without any
    "CohereForAI-c4ai-command-r-plus-tool_use", "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "fireworks-ai-llama-3-firefunction-v2",
}  # fmt: skip
UNTESTED = {"baichuan"}  # SentencePiece without expected ids


def vocabulary(name: str) -> Path:
    return LLAMA_CPP / f"ggml-vocab-{name}.gguf"


def loaded(metadata: dict[str, Any]) -> Tokenizer:
    return Tokenizer(json.dumps(tokenizer_json(metadata)))


@needs_llama_cpp
@pytest.mark.slow
@pytest.mark.parametrize("name", CLAIMED)
def test_every_vocabulary_that_is_claimed_gives_the_expected_ids(name: str) -> None:
    path = vocabulary(name)
    tokenizer = loaded(GgufFile(path).metadata)
    texts = path.with_suffix(".gguf.inp").read_text(encoding="utf-8").split(SEPARATOR)
    expected = path.with_suffix(".gguf.out").read_text().split("\n")
    assert len(texts) == len(expected) > 40
    for text, line in zip(texts, expected, strict=True):
        assert tokenizer.encode(text) == [int(token) for token in line.split()], text


@needs_llama_cpp
@pytest.mark.parametrize("name", REFUSED)
def test_every_other_one_is_refused_by_name(name: str) -> None:
    with pytest.raises(CheckpointError, match=f"'{REFUSED[name]}'"):
        tokenizer_json(GgufFile(vocabulary(name)).metadata)


@needs_llama_cpp
def test_no_vocabulary_is_left_out() -> None:
    there = {path.stem.removeprefix("ggml-vocab-") for path in LLAMA_CPP.glob("*.gguf")}
    assert there == {*CLAIMED, *REFUSED, *UNTESTED}


@needs_llama_cpp
@pytest.mark.parametrize("path", sorted((LLAMA_CPP / "templates").glob("*.jinja")), ids=lambda path: path.stem)
def test_every_chat_template_is_valid(path: Path) -> None:
    template = ChatTemplate(path.read_text(encoding="utf-8"), {"bos_token": "<s>", "eos_token": "</s>"})
    if path.stem in NEEDS_TOOLS:
        return
    assert "capital" in template.render([{"role": "user", "content": "the capital"}], add_generation_prompt=True)


def byte_level(**more: Any) -> dict[str, Any]:
    tokens = ["a", "b", "ab", "Ġ", "<s>", "<tool>"]
    found = {"model": "gpt2", "pre": "gpt-2", "tokens": tokens, "merges": ["a b"], "token_type": [1, 1, 1, 1, 3, 4]}
    return {f"tokenizer.ggml.{key}": value for key, value in (found | more).items() if value is not None} | {
        "tokenizer.ggml.token_type": np.array(found["token_type"])
    }


def sentencepiece(**more: Any) -> dict[str, Any]:
    tokens = ["<unk>", "<s>", "<0x21>", "▁", "a", "b", "ab", "▁a"]
    found = {"model": "llama", "tokens": tokens, "unknown_token_id": 0, "bos_token_id": 1}
    return {f"tokenizer.ggml.{key}": value for key, value in (found | more).items()} | {
        "tokenizer.ggml.token_type": np.array([2, 3, 6, 1, 1, 1, 1, 1]),
        "tokenizer.ggml.scores": np.array([0, 0, 0, -9, -9, -9, -1, -2], dtype=np.float32),
    }


def test_the_score_decides_which_neighbours_are_joined() -> None:
    assert loaded(sentencepiece()).encode("ab!") == [3, 6, 2]
    reversed_scores = {"tokenizer.ggml.scores": np.array([0, 0, 0, -9, -9, -9, -2, -1], dtype=np.float32)}
    assert loaded(sentencepiece() | reversed_scores).encode("ab!") == [7, 5, 2]


def test_the_space_before_a_text_is_optional() -> None:
    assert loaded(sentencepiece(add_space_prefix=False)).encode("ab") == [6]
    assert loaded(sentencepiece()).decode([3, 6]) == "ab"


def test_a_text_begins_with_bos_where_the_kind_does_or_the_file_says_so() -> None:
    assert [tokenizer_config(metadata)["add_bos_token"] for metadata in (
        byte_level(), byte_level(pre="llama-bpe"), byte_level(pre="llama-bpe", add_bos_token=False), sentencepiece(),
        sentencepiece(add_bos_token=False),
    )] == [False, True, False, True, False]  # fmt: skip


def test_special_tokens_are_marked() -> None:
    tokenizer = loaded(byte_level())
    assert (set(tokenizer.special_tokens), set(tokenizer.added_tokens)) == ({"<s>"}, {"<s>", "<tool>"})


@pytest.mark.parametrize(
    ("tokens", "kinds", "ends"),
    [
        (["<eos>", "<end_of_turn>", "<start_of_turn>"], [3, 3, 3], [0, 1]),  # as in files of Gemma 3
        (["<|endoftext|>", "<|assistant|>", "<|end|>"], [3, 3, 3], [0, 2]),  # of Phi-3
        (["<|return|>", "<|end|>", "<|call|>", "<|endoftext|>"], [3, 3, 3, 3], [0, 2, 3]),  # of gpt-oss
        (["</s>", "<|im_end|>", "<|eot_id|>"], [3, 4, 1], [0, 1]),  # the last one is ordinary text
    ],
)
def test_the_end_of_a_turn_ends_a_generation_although_the_file_only_names_that_of_a_text(
    tokens: list[str], kinds: list[int], ends: list[int]
) -> None:
    metadata = byte_level(tokens=tokens, eos_token_id=0) | {"tokenizer.ggml.token_type": np.array(kinds)}
    assert generation_config(metadata) == {"eos_token_id": ends}


def test_every_end_that_ollama_lists_ends_a_generation() -> None:
    metadata = byte_level(eos_token_id=4, eos_token_ids=np.array([4, 2], dtype=np.int32))
    assert generation_config(metadata) == {"eos_token_id": [4, 2]}
    assert generation_config(byte_level(eos_token_id=4)) == {"eos_token_id": [4]}
    assert generation_config(byte_level(eos_token_id=4, eos_token_ids=["2"])) == {"eos_token_id": [4]}


def test_kimi_has_chinese_characters_apart_from_words() -> None:
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json(byte_level(pre="kimi-k2"))))
    assert tokenizer.pre_tokenizer is not None
    text = "It's 汉字abc汉, 12345 McDonald!\n"
    pieces = [text[slice(*place)] for _, place in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
    assert pieces == ["It's", " ", "汉字", "abc", "汉", ",", " ", "123", "45", " Mc", "Donald", "!\n"]


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (byte_level(model="rwkv"), "kind 'rwkv'"),
        (byte_level(model=["gpt2"]), "kind"),
        (byte_level(pre="unheard-of"), "pre-tokenizer 'unheard-of'"),
        (byte_level(pre=["gpt-2"]), "pre-tokenizer"),
        (byte_level(tokens=None), "no list of tokens"),
        (byte_level(tokens=np.arange(3)), "no list of tokens"),
        (byte_level(tokens=["a"]), "not one number for each"),
        (byte_level(merges=None), "no list of merges"),
        (byte_level(merges=["ab"]), "two parts"),
        (byte_level(merges=["a c"]), "cannot be read"),
    ],
)
def test_hostile_metadata_is_refused(metadata: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loaded(metadata)
