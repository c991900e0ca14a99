"""The interview's questions are not trained on: none shares a run of words with what the recipe itself asks."""

from collections.abc import Iterable

import pytest

from model.bundled_recipe.fact_phrasings import read_phrasings
from model.evaluation.tasks.interview import read_questions
from model.training.data.rows import Row
from model.training.data.shingles import is_chinese, normalize

WORDS, CHARACTERS = 6, 10


def runs(texts: Iterable[str]) -> set[tuple[str, ...]]:
    """All runs of WORDS words, or of CHARACTERS characters of Chinese; a shorter text counts whole."""
    found: set[tuple[str, ...]] = set()
    for text in map(normalize, texts):
        units = list(text.replace(" ", "")) if is_chinese(text) else text.split()
        size = min(CHARACTERS if is_chinese(text) else WORDS, len(units))
        found.update(tuple(units[start : start + size]) for start in range(len(units) - size + 1))
    return found


ASKED = runs(turn for question in read_questions() for turn in question.turns)


# What everybody says in the same words.
GREETINGS = runs(["Hello!", "Hi!"])


def taught(rows: Iterable[Row]) -> set[tuple[str, ...]]:
    return runs(m["content"] for row in rows for m in row["messages"] if m["role"] == "user")


def test_no_made_row_asks_what_the_interview_asks(template_rows: list[Row]) -> None:
    assert ASKED & taught(template_rows) <= GREETINGS


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_template_of_the_facts_is_a_question_of_the_interview(language: str) -> None:
    phrasings = read_phrasings(language)
    types = [*phrasings.types, *phrasings.fallbacks]
    templates = [text for fact_type in types for text in (*fact_type.questions, *(pair[0] for pair in fact_type.pairs))]
    templates += [frame.replace("{it}", text) for t in types for text in t.topics for frame in phrasings.topic_frames]
    templates += [frame.replace("{it}", text) for t in types for text in t.clauses for frame in phrasings.clause_frames]
    assert not ASKED & runs(templates)


def test_an_overlap_would_be_found() -> None:
    assert ASKED & runs(["Tell me: in what part of the world do I find India?"])
    assert ASKED & runs(["我想知道英国首都在哪座城市，好吗？"])
