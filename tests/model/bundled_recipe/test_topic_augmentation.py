"""Borrowed topics: other sources' rows under one source's labels."""

import pytest

from model.bundled_recipe.topic_augmentation import LABELS, LONGEST, MEDICINE, NEWS, as_headline, borrowed_topics


def news(text: str, label: str) -> dict[str, object]:
    return {"task": "analyze", "text": text, "label": label, "label_set": ["wellness", "politics", "business"]}


def test_labels_are_renamed_and_others_left_out() -> None:
    lent = {NEWS: [news("Sleep Well. It helps.", "wellness"), news("A vote", "politics"), news("Oil", "business")]}
    rows = list(borrowed_topics(lent))
    assert [(row["text"], row["label"]) for row in rows] == [
        ("Sleep Well. It helps.", "health"),
        ("Sleep Well", "health"),
        ("Oil", "business"),
    ]
    assert all(row["label_set"] == LABELS for row in rows)


def test_medical_sentences_are_about_health() -> None:
    lent = {MEDICINE: [{"task": "translate", "source": "A fever."}]}
    assert [(row["text"], row["label"]) for row in borrowed_topics(lent)] == [("A fever", "health")]


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
    assert len(headline) <= LONGEST


def test_without_lenders_there_is_nothing() -> None:
    assert list(borrowed_topics({"analyze/other": [news("a", "wellness")]})) == []
