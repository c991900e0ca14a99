"""Prompts of the teacher, and which texts are kept."""

import pytest

from model.bundled_recipe.teacher.texts import KINDS, REVIEWS, STORIES, examples, is_story, labelled
from model.training.data.rows import Row

LABELS = ["positive", "negative"]


def test_a_labelled_text_is_written_and_labelled_and_a_story_written() -> None:
    rows: dict[str, list[Row]] = {kind.source: [] for kind in KINDS} | {
        STORIES: [{"text": "Tim ran."}],
        REVIEWS.source: [{"text": "great fun.", "label": "positive"}],
    }
    assert list(examples(rows)) == [
        ("A little story for children:\n", "Tim ran."),
        ("A positive sentence from a film review:", " great fun."),
        ("Film review sentence: great fun.\nSentiment:", " positive"),
    ]


@pytest.mark.parametrize(
    ("text", "shares", "asked", "label"),
    [
        ("great fun.", [0.9, 0.1], "", "positive"),
        ("great fun.", [0.2, 0.8], "negative", "negative"),
        ("great fun.", [0.2, 0.8], "positive", None),  # something else was asked for
        ("great fun.", [0.6, 0.4], "positive", None),  # it is not sure
        ("great", [0.9, 0.1], "", None),
        ("great\nfun", [0.9, 0.1], "", None),
    ],
)
def test_a_text_is_kept_where_its_label_is_certain(
    text: str, shares: list[float], asked: str, label: str | None
) -> None:
    row = labelled(text, LABELS, shares, 0.7, asked)
    assert (row and row["label"]) == label


def test_a_story_has_a_length_and_an_end() -> None:
    story = "Tim had a red ball. " * 10 + "He was happy."
    assert is_story(story)
    assert not any(map(is_story, ("", "Tim ran.", story[:-1], story.replace("red", " red"), story * 20)))
