"""Training of a tokenizer: special tokens first, every byte, digits alone, the same each time."""

from pathlib import Path

import pytest

from model.text.chat_template import ChatTemplate
from model.text.special_tokens import SPECIAL_TOKENS
from model.text.tokenizer import Tokenizer
from model.training.train_tokenizer import sample_texts, save_tokenizer, train_tokenizer
from tests.model.training.conftest import BUNDLED, translation, write_rows

TEXTS = ["the cat sat on the mat, the cat's mat 2024", "你好世界你好", "Straße über"] * 9


def test_ids_are_special_tokens_then_bytes_then_merges() -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=320)
    assert [tokenizer.id_to_token(token_id) for token_id in range(32)] == list(SPECIAL_TOKENS)
    assert tokenizer.get_vocab_size() == 320
    assert tokenizer.decode(tokenizer.encode("\x00\x7f 未見 ñ\n\t").ids) == "\x00\x7f 未見 ñ\n\t"


def test_training_is_deterministic() -> None:
    assert train_tokenizer(TEXTS, vocab_size=320).to_str() == train_tokenizer(TEXTS, vocab_size=320).to_str()


def test_digits_are_tokens_of_their_own() -> None:
    tokenizer = train_tokenizer(["2024 2024 2024"] * 50, vocab_size=320)
    assert len(tokenizer.encode("20242024").ids) == 8


def test_a_saved_tokenizer_loads_with_its_template(tmp_path: Path) -> None:
    save_tokenizer(train_tokenizer(TEXTS, vocab_size=320), tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.eos_token_ids == (2,)
    messages = [{"role": "user", "content": "cat"}]
    assert ChatTemplate.load(tmp_path).render(messages, True) == ChatTemplate.load(BUNDLED).render(messages, True)


def test_the_sample_blends_languages_and_sources(tmp_path: Path) -> None:
    pairs = [translation(f"the {'sun' * 50} is {n}", "阳光" * 50) for n in range(200)]
    german = [translation("the sun", "die Sonne und der Mond " * 9, "de") for _ in range(200)]
    write_rows(tmp_path / "translate/zh.train.jsonl", pairs)
    write_rows(tmp_path / "translate/de.train.jsonl", german)
    texts = list(sample_texts(tmp_path, characters=20_000))
    chinese = sum(len(text) for text in texts if text.startswith("阳光"))
    assert chinese == pytest.approx(4000, abs=100)
    assert sum(len(text) for text in texts if "Sonne" in text) == pytest.approx(3000, abs=210)
    assert sum(text == "光" for text in texts) == chinese / 2
    assert texts.count("assistant\n") == texts.count("user\n") > 1000
