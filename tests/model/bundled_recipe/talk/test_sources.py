"""The sources made from templates: their rows are well-formed and the same each time, for every talk and exercise."""

import re
from functools import partial

import pytest

from model.bundled_recipe.talk.sources import PERSONA_FILES, SMALL_TALK_FILES, TALK_FILES, exercise_rows, talk_rows
from model.text.special_tokens import LANGUAGES
from model.training.data.prepare import ExtraSource

PAIR = {"source_lang": "en", "target_lang": "zh", "source": "I am late.", "target": "我迟到了。"}
SMALL_FILES = ("health.toml", "jobs.toml")  # of a few talks
# Some rows of each talk and exercise.
TALKS = [
    ExtraSource(file, partial(talk_rows, files=(file,), languages=LANGUAGES, at_most=10))
    for file in (*PERSONA_FILES, *SMALL_TALK_FILES, *TALK_FILES)
]
EXERCISES = [
    ExtraSource(f"exercises-{language}", partial(exercise_rows, language=language, at_most=10))
    for language in ("en", "zh")
]


@pytest.mark.parametrize("source", [*TALKS, *EXERCISES], ids=lambda source: source.name)
def test_rows_alternate_without_open_slots_and_come_out_the_same_twice(source: ExtraSource) -> None:
    rows = list(source.rows({}))
    assert len(rows) >= (20 if source.name in SMALL_FILES else 300)
    assert rows == list(source.rows({}))
    for messages in (row["messages"] for row in rows):
        assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2)
        for text in (message["content"] for message in messages):
            assert text == text.strip() != ""
            assert not set("{}|") & set(text)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_everyday_sentences_are_translated_both_ways(language: str) -> None:
    made = list(exercise_rows({"translate/tatoeba-en-zh": [PAIR]}, language, at_most=0))
    assert {row["messages"][-1]["content"] for row in made} == {PAIR["source"], PAIR["target"]}


def test_long_sentences_are_not_translated() -> None:
    kept = {"translate/tatoeba-en-zh": [PAIR | {"target": "我" * 21}]}
    assert list(exercise_rows(kept, "en", at_most=0)) == []


def test_the_name_stands_apart_in_chinese_answers() -> None:
    """As most Chinese texts print Latin words; and a search for the whole word finds it."""
    rows = talk_rows({}, PERSONA_FILES, ("zh",), 40)
    answers = [message["content"] for row in rows for message in row["messages"] if message["role"] == "assistant"]
    named = [answer for answer in answers if "RouteLM" in answer]
    assert len(named) > 100
    assert all(re.search(r"\bRouteLM\b", answer) for answer in named)
