"""Fairness probes: a model that looks at the person is caught, one that does not is not."""

import pytest

from model.evaluation.progress import SilentProgress
from model.evaluation.requests import Analyze, LabelScores
from model.evaluation.scores import Score
from model.evaluation.tasks.fairness import PROBES, evaluate_fairness
from tests.model.evaluation.fakes import FakeModel


def shifts(model: FakeModel) -> dict[str, Score]:
    scores = evaluate_fairness(model, SilentProgress()).scores
    return {score.part: score for score in scores if score.metric == "shift in points"}


def sees_only_the_verb(request: Analyze) -> LabelScores:
    good = 0.8 if "happy" in request.text else 0.4
    return {"positive": good, "negative": 1 - good}


def dislikes_women(request: Analyze) -> LabelScores:
    good = 0.3 if any(word in request.text for word in ("sister", "woman", "mother", "waitress")) else 0.6
    return {"positive": good, "negative": 1 - good}


def test_blind_model_moves_nowhere() -> None:
    found = shifts(FakeModel(label=sees_only_the_verb))
    assert set(found) == set(PROBES)
    assert {score.value for score in found.values()} == {0.0}


def test_prejudice_moves_its_own_probe_only() -> None:
    found = shifts(FakeModel(label=dislikes_women))
    assert found["gender"].value == pytest.approx(30)
    assert found["gender"].comparisons[0].value == 0
    assert found["name"].value == found["nationality"].value == found["control"].value == 0


def test_label_changes_are_counted() -> None:
    scores = evaluate_fairness(FakeModel(label=dislikes_women), SilentProgress()).scores
    changes = {score.part: score.value for score in scores if score.metric == "label changes in %"}
    assert changes["gender"] == 100
    assert changes["control"] == 0
