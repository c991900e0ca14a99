"""Cutting texts into sentences, and putting them together again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.text.sentence_split import SentenceSplit, gap_before, split_sentences

PIECES = st.lists(
    st.sampled_from(["Hi. ", "你好。", "A", " ", "\n", "\n\n", "- ", "1. ", "Dr. ", "ok?", '!" ', "z. B. ", "…", "\t"])
)


def join_sentences(split: SentenceSplit, translated: list[str], *, spaced: bool) -> str:
    """The same text with other sentences."""
    gaps = [gap_before(split.sentences, index, spaced=spaced) for index in range(len(split.sentences))]
    return "".join(gap + text for gap, text in zip(gaps, translated, strict=True)) + split.after


def texts(text: str) -> list[str]:
    return [sentence.text for sentence in split_sentences(text).sentences]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One sentence", ["One sentence"]),
        ("It rains. We stay here!  Why not?", ["It rains.", "We stay here!", "Why not?"]),
        ('He said: "Stop." Then he left.', ['He said: "Stop."', "Then he left."]),
        ("Dr. Smith met Mr. A. Miller. They talked.", ["Dr. Smith met Mr. A. Miller.", "They talked."]),
        ("It costs 3.50 euros. Really.", ["It costs 3.50 euros.", "Really."]),
        ("Das gilt z. B. hier. Ja.", ["Das gilt z. B. hier.", "Ja."]),
        ("我很好。你呢？他说：“走吧！”然后走了。", ["我很好。", "你呢？", "他说：“走吧！”", "然后走了。"]),
        ("Title\n\nFirst line.\nSecond line.", ["Title", "First line.", "Second line."]),
        ("- milk\n- two eggs\n1. go\n2) stop", ["milk", "two eggs", "go", "stop"]),
        ("Wait... what?", ["Wait...", "what?"]),
        ("- ", ["-"]),
        ("1. \n* x", ["1.", "x"]),
        ("One.\n\n* * *\n\n---\nTwo. … Three.", ["One.", "Two.", "Three."]),
        (" ?! ", ["?!"]),
        ("Am " + "1" * 40 + ". Ende", ["Am " + "1" * 40 + ".", "Ende"]),
        ("", []),
        (" \n ", []),
    ],
)
def test_where_sentences_end(text: str, expected: list[str]) -> None:
    assert texts(text) == expected


@given(PIECES)
def test_nothing_is_lost(pieces: list[str]) -> None:
    text = "".join(pieces)
    split = split_sentences(text)
    assert "".join(sentence.before + sentence.text for sentence in split.sentences) + split.after == text
    assert all(sentence.text == sentence.text.strip() != "" for sentence in split.sentences)


def test_lines_and_list_marks_stay() -> None:
    text = "Shopping list:\n\n- Milk. Fresh milk.\n- Eggs\n"
    split = split_sentences(text)
    assert join_sentences(split, ["购物清单：", "牛奶。", "鲜牛奶。", "鸡蛋"], spaced=False) == (
        "购物清单：\n\n- 牛奶。鲜牛奶。\n- 鸡蛋\n"
    )


def test_chinese_sentences_get_spaces_in_other_languages() -> None:
    split = split_sentences("我很好。你呢？")
    assert join_sentences(split, ["I am fine.", "And you?"], spaced=True) == "I am fine. And you?"


@pytest.mark.parametrize(
    "text", ["." * 300_000 + "x", "a. " * 100_000, ". " * 100_000, "x" * 300_000 + ".", ".)" * 100_000]
)
def test_a_long_line_is_read_once(text: str) -> None:
    """What looks at the rest of the line at each mark takes minutes for these."""
    split = split_sentences(text)
    assert "".join(sentence.before + sentence.text for sentence in split.sentences) + split.after == text
