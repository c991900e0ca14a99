"""The interview's questions are not trained on: none shares a run of words with what the recipe itself asks."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import pytest

from model.bundled_recipe.extra_sources import read_persona
from model.bundled_recipe.fact_phrasings import read_phrasings
from model.bundled_recipe.talk.sources import COMPUTE, PERSONA_FILES, SMALL_TALK_FILES
from model.bundled_recipe.talk.templates import TalkWriter, read_talks
from model.evaluation.tasks.interview import read_questions
from model.text.special_tokens import LANGUAGES
from model.training.data.shingles import is_chinese, normalize

WORDS, CHARACTERS = 6, 10
DRAWS = 20  # about as often as a wording comes in the training data

Run = tuple[str, ...]


def units_of(text: str) -> Sequence[str]:
    """The words of a text, or its characters where it is Chinese."""
    text = normalize(text)
    return text.replace(" ", "") if is_chinese(text) else text.split()


def runs(units: Sequence[str]) -> Iterator[Run]:
    """All runs of WORDS words, or of CHARACTERS characters of Chinese; a shorter text counts whole."""
    size = min(CHARACTERS if isinstance(units, str) else WORDS, len(units))
    return (tuple(units[start : start + size]) for start in range(len(units) - size + 1))


TURNS = [units_of(turn) for question in read_questions() for turn in question.turns]
ASKED = set(chain.from_iterable(map(runs, TURNS)))
COUNTS = Counter(chain.from_iterable(TURNS))
# A text without any of them cannot share a run: one rare word, or character, of each run.
RARE = {min(run, key=lambda unit: (COUNTS[unit], -len(unit))) for run in ASKED}
# What everybody says in the same words.
GREETINGS = {("hello",), ("hi",)}


def asked_in(texts: Iterable[str]) -> set[Run]:
    """The runs of the interview that the texts have, too."""
    candidates = (units for units in map(units_of, set(texts)) if not RARE.isdisjoint(units))
    return {run for units in candidates for run in runs(units)} & ASKED


def talk_questions(file: str) -> Iterator[str]:
    """What the user says in a file of talks: every wording, those with slots filled DRAWS times."""
    for language in LANGUAGES:
        writer = TalkWriter(language, seed="interview")
        for wording in (wording for turns in read_talks(file, language).values() for wording in chain(*turns[::2])):
            yield from (writer.write([[wording]], {})[0] for _ in range(DRAWS if "{" in wording else 1))


def exercise_questions(language: str) -> Iterator[str]:
    """Every wording of each exercise, filled DRAWS times."""
    writer, exercises = TalkWriter(language, seed="interview"), read_talks("exercises.toml", language)
    for name, compute in COMPUTE[language].items():
        for wording in exercises[name][0]:
            yield from (writer.write([[wording]], compute(writer.random))[0] for _ in range(DRAWS))


@pytest.mark.parametrize("file", [*PERSONA_FILES, *SMALL_TALK_FILES, "refusals.toml", "talks.toml"])
def test_no_talk_asks_what_the_interview_asks(file: str) -> None:
    assert asked_in(talk_questions(file)) <= GREETINGS


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_exercise_asks_what_the_interview_asks(language: str) -> None:
    assert not asked_in(exercise_questions(language))


def test_the_persona_is_not_asked_as_in_the_interview() -> None:
    assert not asked_in(question for topic in read_persona()["topics"] for question in topic["questions"])


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_template_of_the_facts_is_a_question_of_the_interview(language: str) -> None:
    phrasings = read_phrasings(language)
    types = [*phrasings.types, *phrasings.fallbacks]
    templates = [text for fact_type in types for text in (*fact_type.questions, *(pair[0] for pair in fact_type.pairs))]
    templates += [frame.replace("{it}", text) for t in types for text in t.topics for frame in phrasings.topic_frames]
    templates += [frame.replace("{it}", text) for t in types for text in t.clauses for frame in phrasings.clause_frames]
    assert not asked_in(templates)


def test_an_overlap_would_be_found() -> None:
    assert asked_in(["Tell me: in what part of the world do I find India?"])
    assert asked_in(["我想知道英国首都在哪座城市，好吗？"])
    assert asked_in(turn for question in read_questions() for turn in question.turns) == ASKED
