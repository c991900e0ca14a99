"""The sources made from templates: their rows are well-formed, the same each time, and enough."""

import pytest

from model.bundled_recipe.talk.sources import exercise_rows, talk_rows
from model.text.special_tokens import LANGUAGES
from model.training.data.rows import Row

PAIR = {"source_lang": "en", "target_lang": "zh", "source": "I am late.", "target": "我迟到了。"}


def test_rows_are_many_and_alternate_without_open_slots(template_rows: list[Row]) -> None:
    assert len(template_rows) > 3000
    for row in template_rows:
        messages = row["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2)
        for text in (message["content"] for message in messages):
            assert text == text.strip() != ""
            assert not set("{}|") & set(text)


@pytest.mark.parametrize("file", ["persona.toml", "refusals.toml", "talks.toml", "smalltalk.toml"])
def test_talks_come_out_the_same_twice(file: str) -> None:
    rows = list(talk_rows({}, file, LANGUAGES, at_most=4))
    assert rows
    assert rows == list(talk_rows({}, file, LANGUAGES, at_most=4))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_exercises_come_out_the_same_twice(language: str) -> None:
    rows = list(exercise_rows({}, language, at_most=4))
    assert rows
    assert rows == list(exercise_rows({}, language, at_most=4))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_everyday_sentences_are_translated_both_ways(language: str) -> None:
    made = list(exercise_rows({"translate/tatoeba-en-zh": [PAIR]}, language, at_most=0))
    assert {row["messages"][-1]["content"] for row in made} == {PAIR["source"], PAIR["target"]}


def test_long_sentences_are_not_translated() -> None:
    kept = {"translate/tatoeba-en-zh": [PAIR | {"target": "我" * 21}]}
    assert list(exercise_rows(kept, "en", at_most=0)) == []
