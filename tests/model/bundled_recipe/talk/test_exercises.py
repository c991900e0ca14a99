"""The answers of the exercises are right, seen from the question alone."""

import re
from random import Random

import pytest

from model.bundled_recipe.talk import exercises_zh
from model.bundled_recipe.talk.english.basics import NUMBERS
from model.bundled_recipe.talk.exercise_words import Compute, read_table
from model.bundled_recipe.talk.sources import COMPUTE
from model.bundled_recipe.talk.templates import Slots, TalkWriter, read_talks

DRAWS = 200
ENGLISH = COMPUTE["en"]


def drawn(compute: Compute) -> list[Slots]:
    random = Random(1)
    return [compute(random) for _ in range(DRAWS)]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_template_has_its_function_and_the_other_way_round(language: str) -> None:
    translations = {"translate", "translate_to_en", "translate_to_zh"}  # of kept sentences
    assert set(read_talks("exercises.toml", language)) - translations == set(COMPUTE[language])


@pytest.mark.parametrize("language", ["en", "zh"])
def test_numbers_are_sorted_and_counted(language: str) -> None:
    compute = COMPUTE[language]
    for slots in drawn(compute["sort_numbers"]):
        numbers = [int(number) for number in re.findall(r"\d+", slots["numbers"])]
        assert [int(number) for number in re.findall(r"\d+", slots["sorted"])] == sorted(numbers)
    for slots in drawn(compute["count_from"]):
        listed = [int(number) for number in re.findall(r"\d+", slots["numbers"])]
        assert listed == list(range(int(slots["a"]), int(slots["b"]) + 1))
    assert all(slots["numbers"].endswith("1") for slots in drawn(compute["count_down"]))
    assert all(int(slots["big"]) > int(slots["small"]) for slots in drawn(compute["bigger"]))


def test_longest_and_shortest_words() -> None:
    for slots in drawn(ENGLISH["longest_word"]):
        others = set(slots["words"].split(", ")) - {slots["word"]}
        assert all(len(other) < len(slots["word"]) for other in others)
    for slots in drawn(ENGLISH["shortest_word"]):
        others = set(slots["words"].split(", ")) - {slots["word"]}
        assert all(len(other) > len(slots["word"]) for other in others)


def test_words_are_sorted_reversed_counted_and_spelled() -> None:
    for slots in drawn(ENGLISH["sort_words"]):
        assert slots["sorted"].split(", ") == sorted(slots["words"].split(", "))
    for slots in drawn(ENGLISH["reverse"]):
        assert slots["reversed"].split(", ") == slots["words"].split(", ")[::-1]
    for slots in drawn(ENGLISH["words_in"]):
        words = re.findall(r"\w+", slots["sentence"])
        assert (NUMBERS[len(words)], words[0], words[-1]) == (slots["n"], slots["first"], slots["last"])
    for slots in drawn(ENGLISH["spell"]):
        assert slots["letters"].replace("-", "").lower() == slots["word"]


def test_the_odd_word_is_of_another_kind() -> None:
    kinds = {
        name.split("/")[1]: {word for (word,) in words}
        for table in ("countable", "uncountable")
        for name, words in read_table("en", table).items()
    }
    for slots in drawn(ENGLISH["odd_one"]):
        same = kinds[slots["things"]]
        odd = [word for word in slots["words"].split(", ") if word not in same]
        assert odd == [slots["odd"]]


def test_chinese_characters_are_counted() -> None:
    for slots in drawn(exercises_zh.characters):
        n = len(slots["text"])
        assert slots["n"] in (str(n), "两" if n == 2 else exercises_zh._chinese(n))
        assert (slots["first"], slots["last"]) == (slots["text"][0], slots["text"][-1])
    assert exercises_zh._chinese(12) == "十二"


def test_chinese_numbers_are_counted_and_calculated() -> None:
    numerals = {exercises_zh._numeral(n): n for n in range(100)}
    assert (len(numerals), numerals["二十"], numerals["九十二"]) == (100, 20, 92)
    for slots in drawn(exercises_zh.sum_in_characters):
        assert numerals[slots["a"]] + numerals[slots["b"]] == numerals[slots["sum"]]
    for slots in drawn(exercises_zh.product_in_characters):
        assert numerals[slots["a"]] * numerals[slots["b"]] == numerals[slots["product"]]
    for slots in drawn(exercises_zh.day_in_two):
        between = {exercises_zh.DAYS.index(slots[name]) for name in ("earlier", "later")}
        assert between == {(exercises_zh.DAYS.index(slots["day"]) + step) % 7 for step in (-2, 2)}


def test_casual_typing_leaves_the_words_of_an_exercise_alone() -> None:
    writer = TalkWriter("en", seed="test")
    texts = {
        writer.write([["Write {UPPER} in lower case."], ["{word}"]], {"UPPER": "TEA", "word": "tea"})[0]
        for _ in range(60)
    }
    assert texts == {"Write TEA in lower case.", "write TEA in lower case"}
