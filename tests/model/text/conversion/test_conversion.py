"""Tokenizers without tokenizer.json encode like the programs whose files they are."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tiktoken
from transformers import GPT2Tokenizer

from model.text.conversion import patterns
from model.text.conversion.bpe import byte_characters, merges_of
from model.text.tokenizer import Tokenizer

CORPUS = [
    "The river rises in the hills north of the town, where a dozen springs meet.",
    "In 1846 a mill was built below the bridge; it ground corn until 1931!",
    "Der Fluß entspringt in den Hügeln, und die Mühle mahlte bis 1931.",
    "Visitors can see how the stones were dressed, and how the sluice was opened.",
] * 30
TEXTS = [
    "The mill", " two  spaces ", "Mühle 1846", "a\nb", "unseen: 你好 🦙", "don't", "", " ", "the the the",
    "ABC-xyz_123",
]  # fmt: skip


def write_sentencepiece(directory: Path, kind: str = "bpe", **options: Any) -> sentencepiece.SentencePieceProcessor:
    plain: dict[str, Any] = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, model_type=kind,
        vocab_size=400 if kind == "bpe" else 300, byte_fallback=True, minloglevel=2, **plain | options,
    )  # fmt: skip
    (directory / "tokenizer.model").write_bytes(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


@pytest.mark.parametrize("options", [{}, {"add_dummy_prefix": False}, {"user_defined_symbols": ["<tool>"]}], ids=str)
def test_sentencepiece_encodes_as_before(options: dict[str, Any], tmp_path: Path) -> None:
    theirs, ours = write_sentencepiece(tmp_path, **options), Tokenizer.load(tmp_path)
    for text in [*TEXTS, "a <tool>"]:
        if text not in ("", " "):  # of nothing but spaces SentencePiece makes nothing
            assert ours.encode(text) == theirs.encode(text), text
            assert ours.decode(ours.encode(text)) == text
    assert ours.encode_document("The mill")[0] == theirs.bos_id()
    assert ours.special_ids == {theirs.unk_id(), theirs.bos_id(), theirs.eos_id()}


@pytest.mark.parametrize("rule", ["identity", "nmt_nfkc", "nfkc_cf"])
@pytest.mark.parametrize("removes", [False, True], ids=["all spaces", "single spaces"])
def test_sentencepiece_changes_a_text_as_before(rule: str, removes: bool, tmp_path: Path) -> None:
    """The first models of OpenLLaMA, for instance, know no two spaces in a row."""
    theirs = write_sentencepiece(tmp_path, normalization_rule_name=rule, remove_extra_whitespaces=removes)
    ours = Tokenizer.load(tmp_path)
    for text in [*TEXTS, "  The   MILL  ", "Ｆｕｌｌ ½ ﬁ", "a\t b", "\n x\n\n y\n", "e\u0301", "a\u3000\u00a0 b"]:
        if text.strip():
            assert ours.encode(text) == theirs.encode(text), text


def test_other_sentencepiece_models_are_refused(tmp_path: Path) -> None:
    write_sentencepiece(tmp_path, "unigram")
    with pytest.raises(ValueError, match="no byte pair encoding"):
        Tokenizer.load(tmp_path)


def test_a_damaged_sentencepiece_model_is_refused(tmp_path: Path) -> None:
    write_sentencepiece(tmp_path)
    path = tmp_path / "tokenizer.model"
    content = path.read_bytes()
    for damaged in (
        content[:1000],
        b"\xff" * 100,
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x0a\x02\x0d\x00",
        b"\x0a\x02\x08\x01",
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"tokenizer\.model is"):
            Tokenizer.load(tmp_path)


def test_damaged_replacements_of_characters_are_refused(tmp_path: Path) -> None:
    write_sentencepiece(tmp_path)
    with (tmp_path / "tokenizer.model").open("ab") as file:
        file.write(b"\x1a\x05\x12\x03\xff\xff\xff")
    with pytest.raises(ValueError, match="cannot be read: Precompiled"):
        Tokenizer.load(tmp_path)


def ranks() -> dict[bytes, int]:
    """All bytes, and longer tokens of which each is made of two earlier ones."""
    found = {bytes([byte]): byte for byte in range(256)}
    for word in (b"th", b"the", b" m", b"il", b" mil", b" mill", b"18", b"46", "ü".encode()):
        found[word] = len(found)
    return found


def test_vocabulary_and_merges_encode_as_before(tmp_path: Path) -> None:
    alphabet = byte_characters()
    tokens = ["".join(alphabet[byte] for byte in token) for token in ranks()]
    (tmp_path / "vocab.json").write_text(json.dumps({token: place for place, token in enumerate(tokens)}))
    merges = [("t", "h"), ("th", "e"), ("Ġ", "m"), ("i", "l"), ("Ġm", "il"), ("Ġmil", "l"), ("1", "8")]
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n")
    theirs, ours = GPT2Tokenizer.from_pretrained(tmp_path), Tokenizer.load(tmp_path)
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text), text


def test_an_unknown_class_of_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    (tmp_path / "merges.txt").write_text("")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "CodeGenTokenizer"}')
    with pytest.raises(ValueError, match=r"'CodeGenTokenizer' has no tokenizer\.json"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "Qwen2TokenizerFast"}')
    assert Tokenizer.load(tmp_path).encode("a") == [0]


def write_tekken(directory: Path, **changes: object) -> None:
    vocabulary = [{"rank": rank, "token_bytes": base64.b64encode(token).decode()} for token, rank in ranks().items()]
    config = {"pattern": patterns.TEKKEN, "default_vocab_size": 280, "default_num_special_tokens": 20} | changes
    (directory / "tekken.json").write_text(json.dumps({"config": config, "vocab": vocabulary}))


def test_tekken_encodes_as_before(tmp_path: Path) -> None:
    write_tekken(tmp_path)
    kept = {token: rank for token, rank in ranks().items() if rank < 260}
    theirs = tiktoken.Encoding("tekken", pat_str=patterns.TEKKEN, mergeable_ranks=kept, special_tokens={})
    ours = Tokenizer.load(tmp_path)
    for text in TEXTS:
        assert ours.encode(text) == [token + 20 for token in theirs.encode(text)], text
        assert ours.decode(ours.encode(text)) == text
    assert ours.special_tokens["[INST]"] == 3


def test_a_damaged_tekken_file_is_refused(tmp_path: Path) -> None:
    for change in ({"default_num_special_tokens": 5}, {"default_vocab_size": 10**9}, {"default_vocab_size": "x"}):
        write_tekken(tmp_path, **change)
        with pytest.raises(ValueError, match=r"tekken\.json|tokenizer\.json"):
            Tokenizer.load(tmp_path)


def test_without_any_tokenizer_it_says_what_is_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no tokenizer\.json, nor one of tokenizer\.model, vocab\.json with merges"):
        Tokenizer.load(tmp_path)


def test_a_very_long_token_costs_no_more_than_the_lengths_there_are() -> None:
    """Cut at every character, it would be copied a million times."""
    token = "ab" * 500_000
    ids = {text: token_id for token_id, text in enumerate(["a", "b", "ab", token[:-1], token])}
    assert merges_of(ids) == [["a", "b"], [token[:-1], "b"]]
