"""Which sentence says most of a text."""

import pytest

from model.text.centrality import centrality


def test_by_hand() -> None:
    # 3 + 3 + 2 words; "the" and "cat" of the first are in the second, "sleeps" of the second in the first
    assert centrality(["The cat sleeps.", "A cat sleeps!", "It rains"], "en") == pytest.approx([4 / 8, 4 / 8, 0])


def test_chinese_is_counted_by_characters() -> None:
    assert centrality(["猫睡觉。", "猫吃鱼。"], "zh") == pytest.approx([2 / 6, 2 / 6])


def test_texts_without_words() -> None:
    assert centrality(["!!", "?"], "en") == [0, 0]
    assert centrality([], "en") == []
