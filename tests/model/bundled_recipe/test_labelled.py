"""Labelled rows from templates: headlines of every topic, words left out in order, the same label for everybody."""

from collections import Counter, defaultdict
from itertools import islice

import pytest

from model.bundled_recipe.labelled import (
    FEELINGS,
    PEOPLE_PER_RETOLD_SENTENCE,
    TOPICS,
    WORDS_LEFT_OUT,
    headline_rows,
    left_out_rows,
    read_templates,
    somebody_rows,
)
from model.evaluation.tasks.fairness import PROBES

NEWS = next(iter(WORDS_LEFT_OUT))
TEXT = "Bees and a slow solar probe meet the sun"
HEADLINE: dict[str, object] = {"task": "analyze", "text": TEXT, "label": "technology", "label_set": TOPICS}


def test_every_topic_has_thousands_of_headlines_without_open_slots() -> None:
    rows = list(headline_rows({}))
    assert min(Counter(row["label"] for row in rows).values()) > 2000
    assert not [row["text"] for row in rows if "{" in row["text"] or not row["text"].strip()]
    assert rows[:500] == list(islice(headline_rows({}), 500))


def test_variants_keep_some_words_in_their_order_and_the_label() -> None:
    rows, words = list(left_out_rows({NEWS: [HEADLINE]})), TEXT.split()
    assert len(rows) == WORDS_LEFT_OUT[NEWS]
    for row in rows:
        places = [words.index(word) for word in row["text"].split()]
        assert 2 <= len(places) < len(words)
        assert places == sorted(places)
        assert row["label"] == HEADLINE["label"]


def test_a_short_text_has_no_variants() -> None:
    assert list(left_out_rows({NEWS: [HEADLINE | {"text": "three short words"}]})) == []


def test_a_feeling_does_not_depend_on_who_has_it() -> None:
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    for row in somebody_rows({}):
        sentence = next(s for s in _sentences() if row["text"].endswith(s))
        labels[sentence][row["label"]] += 1
    mixed = {sentence for sentence, counts in labels.items() if len(counts) > 1}
    assert mixed == set(_sentences("neutral"))
    assert all(0.2 < labels[sentence]["positive"] / labels[sentence].total() < 0.8 for sentence in mixed)


def test_what_reviewers_tell_of_themselves_is_told_of_others() -> None:
    review = {"task": "analyze", "text": "I loved the soup.", "label": "positive", "label_set": FEELINGS}
    others = [review | {"text": text} for text in ("I loved my soup.", "I love the soup.", "The soup I loved.")]
    rows = list(somebody_rows({"analyze/reviews": [review, *others]}))
    told = [
        row
        for row in rows
        if row["text"].endswith(" loved the soup.") and not row["text"].endswith("I loved the soup.")
    ]
    assert len(told) == PEOPLE_PER_RETOLD_SENTENCE
    assert {row["label"] for row in told} == {"positive"}
    assert not [
        row for row in rows if row["text"].endswith((" loved my soup.", " love the soup.")) and "I " not in row["text"]
    ]


def test_reviews_are_said_by_somebody_with_their_own_label() -> None:
    review = {"task": "analyze", "text": "great fun.", "label": "positive", "label_set": FEELINGS}
    other = review | {"label_set": ["joy", "anger"]}
    said = [row for row in somebody_rows({"analyze/reviews": [review, other]}) if "great fun." in row["text"]]
    assert [row["label"] for row in said] == ["positive"]
    assert said[0]["text"] != review["text"]


@pytest.mark.parametrize("probe", ["name", "nationality"])
def test_the_people_of_the_fairness_probes_are_not_in_the_training_data(probe: str) -> None:
    words = {word for row in somebody_rows({}) for word in row["text"].split()}
    people = {person.split()[min(1, person.count(" "))] for pair in PROBES[probe] for person in pair}
    assert not people & words


def test_the_sentences_are_about_more_than_a_thousand_people() -> None:
    first_words = {row["text"].split()[0] for row in somebody_rows({})}
    assert len(first_words) > 1000


def _sentences(feeling: str | None = None) -> list[str]:
    """The ends of the sentences, after the person."""
    feelings = read_templates()["feelings"]
    chosen = feelings.values() if feeling is None else [feelings[feeling]]
    return [sentence.strip().removeprefix("{0}") for sentences in chosen for sentence in sentences.split("|")]
