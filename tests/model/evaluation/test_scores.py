"""Intervals hold the score, shrink with the samples, and are sacrebleu's for its metrics."""

import numpy as np
import pytest

from model.evaluation.scores import CorpusScore, mean_score, ratio_score
from model.evaluation.tasks.translation import bleu, corpus_score
from tests.model.evaluation.fakes import GERMAN

NUMBERS = np.random.default_rng(1).normal(10, 2, size=400).tolist()


def test_value_is_the_function_of_the_sums() -> None:
    assert mean_score([1, 2, 6]).value == 3
    assert ratio_score([1, 3], [2, 6]).value == 0.5
    assert ratio_score([0], [0]).value == 0


def test_interval_of_a_mean_is_two_standard_errors_wide_each_side() -> None:
    interval = mean_score(NUMBERS).interval()
    error = 1.96 * np.std(NUMBERS) / 20
    assert interval.low == pytest.approx(np.mean(NUMBERS) - error, abs=0.03)
    assert interval.high == pytest.approx(np.mean(NUMBERS) + error, abs=0.03)


def test_more_samples_narrow_the_interval() -> None:
    few, many = mean_score(NUMBERS[:25]).interval(), mean_score(NUMBERS).interval()
    assert many.high - many.low < (few.high - few.low) / 2


def test_same_seed_same_interval_other_seed_another() -> None:
    score = mean_score(NUMBERS)
    assert score.interval(seed=7) == score.interval(seed=7)
    assert score.interval(seed=7) != score.interval(seed=8)


def test_interval_holds_a_score_that_resampling_pushes_up() -> None:
    # |mean| of centred numbers is zero, but not that of a resample: the plain 2.5 % quantile lies above the score.
    centred = np.array([[-1.0], [1.0]] * 50)
    score = CorpusScore(centred, lambda sums_S: abs(float(sums_S[0])))
    assert score.value == 0
    assert score.interval().low == 0


def test_interval_is_as_wide_as_sacrebleus_own() -> None:
    references = [target for _, target in GERMAN] * 10
    hypotheses = [target.replace("Haus", "Heim").replace("Glas ", "") for target in references]
    theirs = bleu("de").corpus_score(hypotheses, [references], n_bootstrap=1000)
    interval = corpus_score(bleu("de"), hypotheses, references).interval()
    assert (interval.high - interval.low) / 2 == pytest.approx(theirs._ci, rel=0.15)
