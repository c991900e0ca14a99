"""ROUGE by hand, in English by stems and in Chinese by characters, and the baselines."""

from pathlib import Path

import pytest

from model.evaluation.data import EvaluationSource, load_sources
from model.evaluation.progress import SilentProgress
from model.evaluation.requests import Summarize
from model.evaluation.tasks.summarization import (
    RougeScorer,
    evaluate_summarization,
    first_sentence,
    lead,
    usual_length,
)
from tests.model.evaluation.fakes import FakeModel, Remembering, summary


def test_chinese_rouge_by_hand() -> None:
    # Reference 今天 天气 好 (5 characters), answer 今天 真 好 (4): 3 in common, in the same order; pairs: 今天.
    found = RougeScorer("zh")("今天天气好。", "今天真好")
    precision, recall = 3 / 4, 3 / 5
    assert found["ROUGE-1"] == pytest.approx(100 * 2 * precision * recall / (precision + recall))
    assert found["ROUGE-L"] == pytest.approx(found["ROUGE-1"])
    assert found["ROUGE-2"] == pytest.approx(100 * 2 * (1 / 3) * (1 / 4) / (1 / 3 + 1 / 4))


def test_the_packages_own_tokenizer_would_see_no_chinese() -> None:
    assert RougeScorer("en")("今天天气好。", "今天天气好。")["ROUGE-1"] == 0
    assert RougeScorer("zh")("今天天气好。", "今天天气好。")["ROUGE-1"] == 100


def test_english_counts_stems() -> None:
    assert RougeScorer("en")("the dogs barked", "the dog barks")["ROUGE-1"] == pytest.approx(100)


def test_german_counts_words_with_umlauts() -> None:
    assert RougeScorer("de")("schöne Bücher", "schöne Autos")["ROUGE-1"] == pytest.approx(50)


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ("It rained. We stayed.", "It rained."),
        ('"Go!" he said. He went.', '"Go!"'),
        ("今天下雨。我们在家。", "今天下雨。"),
        ("no end at all", "no end at all"),
    ],
)
def test_first_sentence(document: str, sentence: str) -> None:
    assert first_sentence(document) == sentence


def test_lead_is_eight_words_or_twelve_characters() -> None:
    assert lead("one two three four five six seven eight nine", "en") == "one two three four five six seven eight"
    assert lead("一二三四五六七八九十甲乙丙", "zh") == "一二三四五六七八九十甲乙"


def test_length_is_the_usual_one_of_the_training_rows(data_dir: Path) -> None:
    [source] = load_sources(data_dir, ["summarize"])
    assert usual_length(source, "en") == "short"
    assert usual_length(EvaluationSource("summarize/x", source.rows), "en") == "medium"


def test_the_model_is_asked_for_language_and_length(data_dir: Path) -> None:
    remembering = Remembering("x")
    sources = load_sources(data_dir, ["summarize"], samples=1)
    evaluate_summarization(FakeModel(remembering), sources, SilentProgress())
    assert remembering.asked == [Summarize("The fox ran away. It was never seen again.", "en", "short")]


def test_answering_with_the_first_sentence_equals_that_baseline() -> None:
    rows = tuple(summary(f"The {a} ran away today. Nobody saw it.", f"{a} ran") for a in ("fox", "bear", "hare"))
    model = FakeModel(lambda request: first_sentence(request.text) if isinstance(request, Summarize) else "")
    outcome = evaluate_summarization(model, [EvaluationSource("summarize/x", rows)], SilentProgress())
    for score in outcome.scores:
        baselines = {baseline.name: baseline.value for baseline in score.baselines}
        assert set(baselines) == {"copy document", "lead", "first sentence"}
        assert score.value == baselines["first sentence"]
        assert "first sentence" in {baseline.name for baseline in score.unbeaten}
