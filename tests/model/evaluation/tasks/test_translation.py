"""BLEU and chrF are sacrebleu's, direction by direction; shuffling and copying are seen through."""

from pathlib import Path

import pytest
import sacrebleu

from model.evaluation.data import EvaluationSource, load_sources
from model.evaluation.progress import SilentProgress
from model.evaluation.requests import GenerationRequest, Translate
from model.evaluation.scores import Score
from model.evaluation.tasks.translation import bleu, chrf, corpus_score, directions, evaluate_translation
from tests.model.evaluation.fakes import GERMAN, FakeModel, translation

REFERENCES = [target for _, target in GERMAN]
NEARLY = [target.replace("Haus", "Heim").replace("Glas ", "") for target in REFERENCES]
DICTIONARY = dict(GERMAN) | {german: english for english, german in GERMAN}


def scores_of(model: FakeModel, data_dir: Path) -> dict[tuple[str, str], Score]:
    outcome = evaluate_translation(model, load_sources(data_dir, ["translate"]), SilentProgress())
    return {(score.part, score.metric): score for score in outcome.scores}


def known(request: GenerationRequest) -> str:
    assert isinstance(request, Translate)
    return DICTIONARY[request.text]


def test_scores_equal_sacrebleu() -> None:
    assert corpus_score(bleu("de"), NEARLY, REFERENCES).value == pytest.approx(
        sacrebleu.corpus_bleu(NEARLY, [REFERENCES]).score
    )
    assert corpus_score(chrf(), NEARLY, REFERENCES).value == pytest.approx(
        sacrebleu.corpus_chrf(NEARLY, [REFERENCES]).score
    )


def test_chinese_is_tokenized_by_sacrebleus_zh() -> None:
    hypotheses, references = ["我喜欢喝热茶。"], ["我喜欢喝绿茶。"]
    ours = corpus_score(bleu("zh"), hypotheses, references).value
    assert ours == pytest.approx(sacrebleu.corpus_bleu(hypotheses, [references], tokenize="zh").score)
    assert ours > corpus_score(bleu("de"), hypotheses, references).value


def test_both_directions_are_asked_and_scored(data_dir: Path) -> None:
    found = scores_of(FakeModel(known), data_dir)
    assert set(found) == {(part, metric) for part in ("en-de", "de-en") for metric in ("BLEU", "chrF")}
    assert all(score.value == pytest.approx(100) and score.samples == len(GERMAN) for score in found.values())
    assert all(not score.unbeaten for score in found.values())


def test_direction_of_each_pair() -> None:
    source = EvaluationSource("translate/x", (translation("tea", "茶", "zh"),))
    there, back = (directions(source)[direction][0] for direction in ("en-zh", "zh-en"))
    assert (there.source, there.target) == ("tea", "茶")
    assert (back.source, back.target, back.source_lang, back.target_lang) == ("茶", "tea", "zh", "en")


def test_shuffled_answers_score_lower() -> None:
    shuffled = [*NEARLY[1:], NEARLY[0]]
    for metric in (bleu("de"), chrf()):
        in_order = corpus_score(metric, NEARLY, REFERENCES).value
        assert corpus_score(metric, shuffled, REFERENCES).value < in_order / 2


def test_copying_does_not_beat_the_copy_baseline(data_dir: Path) -> None:
    for score in scores_of(FakeModel(), data_dir).values():
        [copy] = score.baselines
        assert copy.name == "copy source"
        assert score.value == copy.value
        assert score.unbeaten == (copy,)


def test_signature_names_the_tokenizer(data_dir: Path) -> None:
    found = scores_of(FakeModel(known), data_dir)
    assert "tok:13a" in found["en-de", "BLEU"].signature
    assert "nc:6" in found["en-de", "chrF"].signature
    assert all(score.interval and score.interval.low <= score.value <= score.interval.high for score in found.values())


def test_empty_answers_score_zero(data_dir: Path) -> None:
    found = scores_of(FakeModel(lambda request: ""), data_dir)
    assert {score.value for score in found.values()} == {0.0}
