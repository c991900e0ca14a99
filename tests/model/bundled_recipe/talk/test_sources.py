"""The sources made from templates: their rows are well-formed, the same each time, and enough."""

import pytest

from model.bundled_recipe.extra_sources import all_persona_rows
from model.bundled_recipe.talk.sources import TALK_SOURCES, exercise_rows
from model.training.data.prepare import ExtraSource

SOURCES = (*TALK_SOURCES, ExtraSource("chat/routelm-persona", all_persona_rows))
PAIR = {"source_lang": "en", "target_lang": "zh", "source": "I am late.", "target": "我迟到了。"}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_rows_alternate_without_open_slots_and_come_out_the_same_twice(source: ExtraSource) -> None:
    rows = list(source.rows({}))
    assert len(rows) > 3000
    assert rows == list(source.rows({}))
    for row in rows:
        messages = row["messages"]
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
