"""The interview: patterns, turns, scores, and the questions that ship."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from model.evaluation.progress import Advance, SilentProgress
from model.evaluation.requests import GenerationRequest, Reply
from model.evaluation.tasks.interview import Interview, Question, ask, read_questions
from tests.model.evaluation.fakes import FakeModel

CAPITAL = Question("en", "fact", ("The capital of France?",), (r"\bParis\b",), (r"London",))
NAME = Question("en", "smalltalk", ("I am Lena.", "Who am I?"), ("Lena",))


class Parrot(FakeModel):
    """Answers with the first turn of the conversation and its length."""

    def generate(self, requests: Sequence[GenerationRequest], advance: Advance) -> list[str]:
        advance(len(requests))
        assert all(isinstance(request, Reply) and request.temperature is None for request in requests)
        return [f"{request.messages[0]['content']} {len(request.messages)}" for request in requests]  # type: ignore[union-attr]


def test_a_right_answer_matches_one_pattern_and_none_of_the_others() -> None:
    assert CAPITAL.is_right("It is Paris.")
    assert not CAPITAL.is_right("Parisian")
    assert not CAPITAL.is_right("Paris or London")
    assert replace(CAPITAL, must_match=("Rome", "Paris")).is_right("Paris")


def test_the_model_answers_every_turn_and_sees_its_answers() -> None:
    interview = ask(Parrot(), [CAPITAL, NAME], SilentProgress())
    assert interview.answers == (("The capital of France? 1",), ("I am Lena. 1", "I am Lena. 3"))


def test_scores_by_kind_and_in_all() -> None:
    interview = Interview((CAPITAL, CAPITAL, NAME), (("Rome",), ("Paris",), ("Hi", "a b c d " * 4)))
    scores = {(score.source, score.part, score.metric): score.value for score in interview.outcome().scores}
    assert scores["interview/fact", "en", "right answers in %"] == 50.0
    assert scores["interview/smalltalk", "all", "right answers in %"] == 0.0
    assert scores["interview/all", "all", "right answers in %"] == pytest.approx(100 / 3)
    assert scores["interview/all", "all", "looped answers in %"] == 25.0
    assert [example.answer for example in interview.outcome().failures] == ["Rome", "a b c d " * 4]


@pytest.mark.parametrize(
    ("pattern", "shown"),
    [
        (r"\bParis\b", "Paris"),
        (r"(?i)\b(?:mammals?|stor\w+)\b", "mammals / stor…"),
        (r"(?i)is he late\?", "is he late?"),
        (r"(?i)s\s?-\s?u", "s-u"),
        ("九|9", "九 / 9"),
    ],
)
def test_what_is_expected_is_shown_without_the_signs_of_a_pattern(pattern: str, shown: str) -> None:
    outcome = Interview((replace(CAPITAL, must_match=(pattern,)),), (("Rome",),)).outcome()
    assert [sample.expected for sample in outcome.examples] == [shown]


def test_the_transcript_marks_wrong_answers() -> None:
    text = Interview((CAPITAL, CAPITAL), (("Rome",), ("Paris",))).transcript()
    assert text.count("✗") == 1
    assert "- user: The capital of France?\n- model: Paris" in text


def test_our_questions_are_many_and_cover_every_kind() -> None:
    questions = read_questions()
    kinds = Counter((question.kind, question.lang) for question in questions)
    assert len(questions) >= 200
    assert len({question.turns for question in questions}) == len(questions)
    assert {kind for kind, _ in kinds} == {"fact", "persona", "instruction", "smalltalk"}
    assert all(
        kinds[kind, lang] >= 8 for kind in ("fact", "persona", "instruction", "smalltalk") for lang in ("en", "zh")
    )
    for question in questions:
        assert not question.is_right(""), question  # a pattern that matches anything proves nothing


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"lang": "en", "kind": "fact", "must_match": ["x"]}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"questions\.jsonl, line 1: KeyError\('messages'\)"):
        read_questions(path)
    path.write_text("")
    with pytest.raises(ValueError, match=r"questions\.jsonl has no questions"):
        read_questions(path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"messages": []}, {"messages": [{"content": None}]}, {"must_match": []}, {"must_match": "abc"},
        {"must_match": [5]}, {"must_match": ["("]}, {"must_not_match": ["("]}, {"kind": 5}, {"lang": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_question_that_could_not_be_scored_is_refused_before_any_is_asked(
    wrong: dict[str, object], tmp_path: Path
) -> None:
    path = tmp_path / "questions.jsonl"
    right = {"lang": "en", "kind": "fact", "messages": [{"content": "Why?"}], "must_match": ["because"]}
    path.write_text(json.dumps(right))
    assert len(read_questions(path)) == 1
    path.write_text(json.dumps(right | wrong))
    with pytest.raises(ValueError, match=r"questions\.jsonl, line 1: "):
        read_questions(path)
