"""The answers of the exercises in english/ are right, seen from the question alone."""

import re
from itertools import pairwise
from random import Random

import pytest

from model.bundled_recipe.talk import english
from model.bundled_recipe.talk.english import basics, lists, phrases, reading, sentences, sequences
from model.bundled_recipe.talk.english.basics import DAYS, NUMBERS, WORDS
from model.bundled_recipe.talk.exercise_words import read_table
from model.bundled_recipe.talk.templates import Slots


def drawn(name: str, draws: int = 200) -> list[Slots]:
    random = Random(1)
    return [english.COMPUTE[name](random) for _ in range(draws)]


def test_number_sequences_keep_their_step() -> None:
    for slots in drawn("number_sequence"):
        numbers = [int(number) for number in re.findall(r"\d+", f"{slots['shown']}, {slots['two']}")]
        assert len({later - earlier for earlier, later in pairwise(numbers)}) == 1
        assert slots["next"] == str(numbers[-2])
    for slots in drawn("missing_number"):
        assert slots["shown"].replace("___", slots["missing"]) == slots["full"]


def test_days_lie_as_far_apart_as_the_exercise_says() -> None:
    for slots in drawn("day_later"):
        days, day = NUMBERS.index(slots["days"]), DAYS.index(slots["day"])
        assert (DAYS.index(slots["later"]) - day) % 7 == days
        assert (day - DAYS.index(slots["earlier"])) % 7 == days


def test_sums() -> None:
    assert all(int(s["a"]) - int(s["b"]) == int(s["difference"]) > 0 for s in drawn("subtract"))
    assert all(int(s["a"]) * int(s["b"]) == int(s["product"]) for s in drawn("multiply"))


def test_lists_lose_and_gain_the_word() -> None:
    for slots in drawn("remove_item"):
        words = slots["words"].split(", ")
        assert slots["rest"].split(", ") == [word for word in words if word != slots["word"]] != words
        assert slots["longer"].split(", ") == [*words, slots["new"]]
    for slots in drawn("twice"):
        assert slots["words"].split(", ").count(slots["word"]) == 2
    for slots in drawn("is_in_list"):
        assert slots["answer"].startswith("Yes") == (slots["word"] in slots["words"].split(", "))


def test_only_one_word_is_of_the_kind() -> None:
    kinds = {
        name.split("/")[0]: {word for (word,) in words}
        for table in ("countable", "uncountable")
        for name, words in read_table("en", table).items()
    }
    for slots in drawn("only_one"):
        assert [word for word in slots["words"].split(", ") if word in kinds[slots["kind"]]] == [slots["word"]]
        assert [word for word in slots["mixed"].split(", ") if word not in kinds[slots["kind"]]] == [slots["odd"]]


def test_comparisons_agree_with_each_other() -> None:
    for slots in drawn("compare"):
        assert {slots["a"], slots["b"]} == {slots["winner"], slots["loser"]}
        assert slots["yes_no"].startswith("Yes") == (slots["a"] == slots["winner"])


def test_a_claim_is_false_where_it_is_not_the_fact() -> None:
    assert all((slots["word"] == "true") == (slots["statement"] == slots["fact"]) for slots in drawn("true_false"))


@pytest.mark.parametrize("answer", ["answer", "full"])
def test_texts_have_the_answer_to_their_question(answer: str) -> None:
    said = {"yes", "no", "Yes,", "No,"}
    for slots in drawn("reading", 600):
        words = set(re.findall(r"[\w']+,?", slots[answer])) - said
        known = {word.lower() for word in re.findall(r"[\w']+", f"{slots['text']} {slots['question']}")}
        known |= {
            "is",
            "he",
            "she",
            "older",
            "younger",
            "than",
            "in",
            "things",
            "years",
            "has",
            "because",
            "o'clock",
            *NUMBERS,
        }
        assert {word.rstrip(",").lower() for word in words} <= known, slots


def test_the_sum_of_a_text_is_right() -> None:
    for slots in drawn("reading", 2000):
        if "together" in slots["question"]:
            parts = [NUMBERS.index(word) for word in slots["text"].rstrip(".").split() if word in NUMBERS]
            assert NUMBERS.index(slots["answer"]) == sum(parts)


def test_phrases_have_four_languages() -> None:
    every = [*phrases.read_phrases(short=False), *phrases.read_phrases(short=True)]
    assert len(every) >= 150
    for english_text, german, french, chinese in every:
        assert re.search("[\u4e00-\u9fff]", chinese)
        assert not re.search("[\u4e00-\u9fff]", english_text + german + french)


def test_every_exercise_of_the_modules_is_listed() -> None:
    modules = (basics, sequences, lists, sentences, reading, phrases)
    assert sum(len(module.COMPUTE) for module in modules) == len(english.COMPUTE)
    assert WORDS.words("names")
