"""Accuracy, macro-F1 and calibration by hand; the baselines learn what can be learnt from words."""

from pathlib import Path

import pytest

from model.evaluation.baselines import BagOfWords
from model.evaluation.data import EvaluationSource, load_sources
from model.evaluation.progress import SilentProgress
from model.evaluation.requests import Analyze, LabelScores
from model.evaluation.scores import Score
from model.evaluation.tasks.analysis import Predictions, accuracy, calibration_error, evaluate_analysis, macro_f1
from tests.model.evaluation.fakes import FakeModel, first_label

BY_HAND = Predictions(
    right=("a", "a", "b", "c"),
    predicted=("a", "b", "b", "b"),
    confidence=(0.95, 0.55, 0.52, 0.99),
)


def by_word(request: Analyze) -> LabelScores:
    good = 0.9 if "good" in request.text else 0.1
    return {"positive": good, "negative": 1 - good}


def scores_of(model: FakeModel, sources: list[EvaluationSource]) -> dict[str, Score]:
    return {score.metric: score for score in evaluate_analysis(model, sources, SilentProgress()).scores}


def test_prediction_is_the_likeliest_label() -> None:
    found = Predictions.of(["a", "b"], [{"a": 0.3, "b": 0.7}, {"a": 0.5, "b": 0.5}])
    assert found.predicted == ("b", "a")
    assert found.confidence == (0.7, 0.5)
    assert found.hits == [False, False]


def test_accuracy_and_macro_f1_by_hand() -> None:
    assert accuracy(BY_HAND).value == 50
    # a: precision 1, recall 1/2, F1 2/3. b: precision 1/3, recall 1, F1 1/2. c: never predicted, F1 0.
    assert macro_f1(BY_HAND).value == pytest.approx(100 * (2 / 3 + 1 / 2 + 0) / 3)


def test_calibration_error_by_hand() -> None:
    # Bin 8 of 15 holds 0.55 (wrong) and 0.52 falls into bin 7 (right); 0.95 (right) and 0.99 (wrong) share bin 14.
    gaps = abs(0 - 0.55) * 1 + abs(1 - 0.52) * 1 + abs(0.5 - (0.95 + 0.99) / 2) * 2
    assert calibration_error(BY_HAND).value == pytest.approx(gaps / 4)


def test_calibration_of_the_certain_and_right_is_perfect() -> None:
    certain = Predictions(("a", "b"), ("a", "b"), (1.0, 0.999999))
    assert calibration_error(certain).value == pytest.approx(0, abs=1e-6)
    wrong = Predictions(("a", "b"), ("b", "a"), (1.0, 0.999999))
    assert calibration_error(wrong).value == pytest.approx(1, abs=1e-6)


def test_bag_of_words_learns_which_words_tell() -> None:
    texts = [f"{word} film {n}" for n in range(10) for word in ("good", "bad")]
    labels = ["positive", "negative"] * 10
    learnt = BagOfWords(texts, labels)
    [good, bad] = learnt.probabilities(["a good one", "bad luck"])
    assert good["positive"] > 0.7
    assert bad["negative"] > 0.7
    assert sum(good.values()) == pytest.approx(1)
    [unknown] = learnt.probabilities(["zebra"])
    assert unknown["positive"] == pytest.approx(0.5, abs=0.1)


def test_bag_of_words_learns_chinese_characters() -> None:
    learnt = BagOfWords(["好看的电影", "难听的音乐"] * 5, ["电影", "音乐"] * 5)
    assert learnt.probabilities(["什么电影好看"])[0]["电影"] > 0.7


def test_bag_of_words_needs_texts() -> None:
    with pytest.raises(ValueError, match="no texts"):
        BagOfWords([], [])


def test_good_model_beats_the_majority_and_equals_the_bag_of_words(data_dir: Path) -> None:
    found = scores_of(FakeModel(label=by_word), load_sources(data_dir, ["analyze"]))
    assert found["accuracy"].value == 100
    assert [baseline.name for baseline in found["accuracy"].baselines] == ["majority", "bag of words"]
    assert [baseline.name for baseline in found["accuracy"].unbeaten] == ["bag of words"]
    assert found["ECE"].value == pytest.approx(0.1)
    assert found["ECE"].better == "lower"


def test_model_that_knows_one_label_does_not_beat_the_majority(data_dir: Path) -> None:
    found = scores_of(FakeModel(label=first_label), load_sources(data_dir, ["analyze"]))
    assert "majority" in {baseline.name for baseline in found["accuracy"].unbeaten}
    assert found["ECE"].value == pytest.approx(0.3)


def test_calibration_is_left_out_where_labels_are_only_named(data_dir: Path) -> None:
    model = FakeModel(label=lambda request: {label: float(label == "positive") for label in request.labels})
    assert set(scores_of(model, load_sources(data_dir, ["analyze"]))) == {"accuracy", "macro-F1"}


def test_without_training_rows_there_is_no_bag_of_words(data_dir: Path) -> None:
    [source] = load_sources(data_dir, ["analyze"])
    found = scores_of(FakeModel(), [EvaluationSource(source.name, source.rows)])
    assert [baseline.name for baseline in found["accuracy"].baselines] == ["majority"]
