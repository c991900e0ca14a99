"""The interview's questions are not trained on: none shares a run of words with what the recipe itself asks."""

from collections.abc import Iterable, Iterator
from itertools import chain

import pytest

from model.bundled_recipe.chat_rows import chat_row
from model.bundled_recipe.extra_sources import read_persona
from model.bundled_recipe.fact_phrasings import read_phrasings
from model.bundled_recipe.interview_overlap import Run, interview_questions, without_interview
from model.bundled_recipe.talk.sources import COMPUTE, PERSONA_FILES, SMALL_TALK_FILES, TALK_FILES
from model.bundled_recipe.talk.templates import TalkWriter, read_talks
from model.evaluation.tasks.interview import read_questions
from model.text.special_tokens import LANGUAGES

DRAWS = 20  # about as often as a wording comes in the training data


def asked_in(texts: Iterable[str]) -> set[Run]:
    """The runs of the interview that the texts have, too."""
    return set(chain.from_iterable(map(interview_questions().shared_with, set(texts))))


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


@pytest.mark.parametrize("file", [*PERSONA_FILES, *SMALL_TALK_FILES, *TALK_FILES])
def test_no_talk_asks_what_the_interview_asks(file: str) -> None:
    assert not asked_in(talk_questions(file))


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
    assert asked_in(turn for question in read_questions() for turn in question.turns) == interview_questions().runs


def test_rows_that_ask_a_question_of_the_interview_are_left_out() -> None:
    other = chat_row(["What is a table?", "A piece of furniture."])
    asked = chat_row(["Hello!", "Hi!", "tell me in what part of the world do I find India", "Asia."])
    answered = chat_row(["Well?", "In what part of the world do I find India?"])
    assert list(without_interview([other, asked, answered])) == [other, answered]


def test_rows_of_other_tasks_stay() -> None:
    row = {"task": "generate", "text": "In what part of the world do I find India?"}
    assert list(without_interview([row])) == [row]
