"""Rows that stand in no file: the persona is well-formed, topics come under the labels of another source."""

import pytest

from model.bundled_recipe.extra_sources import (
    EXTRA_SOURCES,
    HEADLINE_CHARACTERS,
    MEDICINE,
    NEWS,
    as_headline,
    persona_rows,
    read_persona,
    topic_rows,
)
from model.bundled_recipe.labelled import TOPICS


def news(text: str, label: str) -> dict[str, object]:
    return {"task": "analyze", "text": text, "label": label, "label_set": ["wellness", "politics", "business"]}


def test_labels_are_renamed_and_others_left_out() -> None:
    kept = {NEWS: [news("Sleep Well. It helps.", "wellness"), news("A vote", "politics"), news("Oil", "business")]}
    rows = list(topic_rows(kept))
    assert [(row["text"], row["label"]) for row in rows] == [
        ("Sleep Well. It helps.", "health"),
        ("Sleep Well", "health"),
        ("Oil", "business"),
    ]
    assert all(row["label_set"] == TOPICS for row in rows)


def test_medical_sentences_are_about_health() -> None:
    kept = {MEDICINE: [{"task": "translate", "source": "A fever."}]}
    assert [(row["text"], row["label"]) for row in topic_rows(kept)] == [("A fever", "health")]


@pytest.mark.parametrize(
    ("text", "headline"),
    [
        ("The Best Books. They add joy.", "The Best Books"),
        ("Is It Safe? What you should know.", "Is It Safe?"),
        ("Samuel L. Jackson And The U.S. Team Win. It was late.", "Samuel L. Jackson And The U.S. Team Win"),
        ("no stop", "no stop"),
        ("word " * 15 + "end.", "word " * 15 + "end"),
        ("word " * 16 + "end.", "word " * 15 + "..."),
    ],
)
def test_headlines(text: str, headline: str) -> None:
    assert as_headline(text) == headline
    assert len(headline) <= HEADLINE_CHARACTERS


def test_without_these_sources_there_is_nothing() -> None:
    assert list(topic_rows({"analyze/other": [news("a", "wellness")]})) == []


def test_persona_rows_alternate_and_end_with_an_answer_of_their_topic() -> None:
    rows, topics = list(persona_rows({})), read_persona()["topics"]
    answers = {answer for topic in topics for answer in topic["answers"]}
    assert len(rows) == sum(len(topic["questions"]) * len(topic["answers"]) for topic in topics)
    for row in rows:
        roles = [message["role"] for message in row["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert row["messages"][-1]["content"] in answers
    assert {len(row["messages"]) for row in rows} == {2, 4}


def test_every_question_of_the_persona_stands_in_one_topic() -> None:
    topics = read_persona()["topics"]
    questions = [question for topic in topics for question in topic["questions"]]
    assert len(questions) == len(set(questions))
    assert {topic["language"] for topic in topics} == {"en", "zh", "de", "fr"}


def test_gap_sentences_come_from_prose_and_the_documents_of_summaries() -> None:
    story = "The old king lived alone. A young fox found the key of the old king. The key was made of gold."
    kept = {"generate/a": [{"text": story}], "summarize/b": [{"document": story.replace("king", "queen")}]}
    source = next(extra for extra in EXTRA_SOURCES if extra.name == "summarize/gap-sentences-en")
    assert ["queen" in row["summary"] for row in source.rows(kept)] == [False, True]
    assert [source.reads(name) for name in (*kept, "generate/poetry-en", "chat/c")] == [True, True, False, False]
