"""Distinct n-grams and repetition by hand; a text that repeats itself stands out."""

from pathlib import Path

import pytest

from model.evaluation.data import EvaluationSource, load_sources
from model.evaluation.progress import SilentProgress
from model.evaluation.requests import Continue, GenerationRequest, Reply
from model.evaluation.tasks.diversity import distinct, evaluate_continuations, evaluate_replies, repetition
from tests.model.evaluation.fakes import FakeModel, Remembering, conversation, document

HUMAN = (
    "The old man walked along the quiet river until he saw a light in the window of a house that nobody had lived in "
)
REST = "for many years, and he wondered who might be there on such a cold and lonely night."


def test_distinct_by_hand() -> None:
    texts = [["a", "b", "a"], ["a", "b"]]
    assert distinct(texts, 1) == pytest.approx(100 * 2 / 5)
    assert distinct(texts, 2) == pytest.approx(100 * 2 / 3)
    assert distinct([["a"]], 2) == 0


def test_repetition_by_hand() -> None:
    assert repetition(list("abcdabcd")) == pytest.approx(100 * 1 / 5)
    assert repetition(list("abcdefgh")) == 0
    assert repetition(list("ab")) == 0


def test_a_loop_is_seen_next_to_what_a_person_wrote() -> None:
    source = EvaluationSource("generate/x", (document(HUMAN + REST),))
    model = FakeModel(lambda request: "very " * 100)
    scores = {s.metric: s for s in evaluate_continuations(model, [source], SilentProgress()).scores}
    assert scores["repetition-4"].value > 80
    assert scores["repetition-4"].comparisons[0].value == 0
    assert scores["distinct-1"].value < 10 < scores["distinct-1"].comparisons[0].value
    assert not any(score.unbeaten for score in scores.values())  # nothing here is to be beaten


def test_human_text_scores_as_human() -> None:
    source = EvaluationSource("generate/x", (document(HUMAN + REST),))
    asked = list[GenerationRequest]()

    def go_on(request: GenerationRequest) -> str:
        assert isinstance(request, Continue)
        asked.append(request)
        return (HUMAN + REST)[len(request.prompt) :]

    outcome = evaluate_continuations(FakeModel(go_on), [source], SilentProgress())
    assert asked[0] == Continue(" ".join(HUMAN.split()[:20]), 128, 0.8, seed=sum((HUMAN + REST).encode()))
    for score in outcome.scores:
        assert score.value == score.comparisons[0].value


def test_chinese_openings_are_counted_in_characters() -> None:
    text = "从前有一只小狐狸，它住在森林里，每天都出去寻找吃的东西，从来没有觉得孤单。"
    prompts = list[str]()

    def remember(request: GenerationRequest) -> str:
        assert isinstance(request, Continue)
        prompts.append(request.prompt)
        return "它很高兴"

    source = EvaluationSource("generate/x", (document(text), document("太短")))
    outcome = evaluate_continuations(FakeModel(remember), [source], SilentProgress())
    assert prompts == [text[:20]]
    assert {score.samples for score in outcome.scores} == {1}


def test_replies_are_asked_with_the_conversation(data_dir: Path) -> None:
    remembering = Remembering("Fine.")
    source = EvaluationSource("chat/x", (conversation("Hello.", "Hi!", "How are you?", "I am fine today."),))
    evaluate_replies(FakeModel(remembering), [source], SilentProgress())
    [request] = remembering.asked
    assert isinstance(request, Reply)
    assert [message["content"] for message in request.messages] == ["Hello.", "Hi!", "How are you?"]
    assert len(evaluate_replies(FakeModel(), load_sources(data_dir, ["chat"]), SilentProgress()).scores) == 3
