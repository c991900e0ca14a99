"""Bits per byte and perplexity by hand; the n-gram model is a distribution that learns."""

import math
from pathlib import Path

import pytest

from model.evaluation.baselines import ByteNgrams
from model.evaluation.data import EvaluationSource, load_sources
from model.evaluation.progress import SilentProgress
from model.evaluation.requests import Likelihood, ReplyLikelihood, ScoringRequest, TextLikelihood
from model.evaluation.scores import Score
from model.evaluation.tasks.language_model import (
    bits_per_byte,
    evaluate_likelihood,
    perplexity,
    scoring_request,
)
from tests.model.evaluation.fakes import FakeModel, conversation, document, one_nat_a_byte

LIKELIHOODS = [Likelihood(-math.log(2) * 10, 5, 8), Likelihood(-math.log(2) * 2, 1, 4)]


def by_source(scores: tuple[Score, ...]) -> dict[tuple[str, str], Score]:
    return {(score.source, score.metric): score for score in scores}


def test_bits_per_byte_and_perplexity_by_hand() -> None:
    assert bits_per_byte(LIKELIHOODS).value == pytest.approx(12 / 12)
    assert perplexity(LIKELIHOODS).value == pytest.approx(2 ** (12 / 6))


def test_a_document_is_asked_whole_and_a_conversation_for_its_last_answer() -> None:
    assert scoring_request(document(" a text \n")) == TextLikelihood("a text")
    row = conversation("hi", "hello", "how are you?", " fine ")
    assert scoring_request(row) == ReplyLikelihood(tuple(row["messages"][:3]), "fine")


def test_one_nat_a_byte_is_that_many_bits(data_dir: Path) -> None:
    outcome = evaluate_likelihood(FakeModel(), load_sources(data_dir, ["generate"]), SilentProgress())
    found = by_source(outcome.scores)
    assert found["generate/stories-en", "bits per byte"].value == pytest.approx(1 / math.log(2))
    assert found["generate/stories-en", "perplexity"].value == pytest.approx(math.e)


def test_languages_are_pooled_over_sources(data_dir: Path) -> None:
    def uneven(request: ScoringRequest) -> Likelihood:
        found = one_nat_a_byte(request)
        return Likelihood(found.log_likelihood * (2 if "hare" in str(request) else 1), found.tokens, found.bytes)

    outcome = evaluate_likelihood(FakeModel(likelihood=uneven), load_sources(data_dir, ["generate"]), SilentProgress())
    found = by_source(outcome.scores)
    parts = [found[name, "bits per byte"] for name in ("generate/stories-en", "generate/tales-en")]
    pooled = found["generate/all", "bits per byte"]
    assert pooled.part == "en"
    assert pooled.samples == sum(part.samples for part in parts)
    assert min(part.value for part in parts) < pooled.value < max(part.value for part in parts)


def test_baseline_is_the_ngram_of_the_training_rows(data_dir: Path) -> None:
    sources = load_sources(data_dir, ["generate/stories-en"])
    found = by_source(evaluate_likelihood(FakeModel(), sources, SilentProgress()).scores)
    ngrams = ByteNgrams(row["text"].strip().encode() for row in sources[0].training_rows(100))
    texts = [row["text"].strip().encode() for row in sources[0].rows]
    bits, size = sum(ngrams.bits(text) for text in texts), sum(map(len, texts))
    [per_byte] = found["generate/stories-en", "bits per byte"].baselines
    [per_token] = found["generate/stories-en", "perplexity"].baselines
    assert per_byte.value == pytest.approx(bits / size)
    assert per_token.value == pytest.approx(2 ** (bits / size))  # of a model with a token per byte
    assert found["generate/stories-en", "bits per byte"].unbeaten == (per_byte,)


def test_no_training_rows_no_baseline(data_dir: Path) -> None:
    outcome = evaluate_likelihood(FakeModel(), load_sources(data_dir, ["generate/tales-en"]), SilentProgress())
    assert all(score.baselines == () for score in outcome.scores)


def test_answers_are_scored_after_what_was_said(data_dir: Path) -> None:
    outcome = evaluate_likelihood(FakeModel(), load_sources(data_dir, ["chat"]), SilentProgress())
    assert {score.metric for score in outcome.scores} == {"bits per byte", "perplexity"}
    assert all(len(score.baselines) == 1 for score in outcome.scores)


def test_ngram_is_scored_on_the_same_bytes_as_the_model(data_dir: Path) -> None:
    def without_first_byte(request: ScoringRequest) -> Likelihood:
        found = one_nat_a_byte(request)
        return Likelihood(found.log_likelihood + 1, found.tokens - 1, found.bytes - 1)

    [source] = load_sources(data_dir, ["generate/stories-en"])
    scores = evaluate_likelihood(FakeModel(likelihood=without_first_byte), [source], SilentProgress()).scores
    ngrams = ByteNgrams(row["text"].strip().encode() for row in source.training_rows(100))
    texts = [row["text"].strip().encode() for row in source.rows]
    bits = sum(ngrams.bits(text[1:], text[:1]) for text in texts)
    assert scores[0].baselines[0].value == pytest.approx(bits / sum(len(text) - 1 for text in texts))


def test_ngram_probabilities_sum_to_one() -> None:
    ngrams = ByteNgrams([b"abracadabra", b"abba"], order=3)
    for context in (b"", b"a", b"ab", b"xyz"):
        total = sum(2 ** -ngrams.bits(bytes([byte]), context) for byte in range(256))
        assert total == pytest.approx(1)


def test_ngram_by_hand() -> None:
    # Order 1: a 2 of 3 with 2 kinds, so P(a) = (2 + 2 / 256) / 5. Order 2, after a: b once, a once, 2 kinds.
    ngrams = ByteNgrams([b"aab"], order=2)
    one = (2 + 2 / 256) / 5
    assert ngrams.bits(b"a", b"a") == pytest.approx(-math.log2((1 + 2 * one) / 4))


def test_ngram_learns_its_text_and_not_another() -> None:
    ngrams = ByteNgrams([b"the cat sat on the mat. " * 20])
    assert ngrams.bits(b"the cat sat on the mat.") / 23 < 0.5
    assert ngrams.bits(b"Quick brown foxes jump.") / 23 > 4


def test_ngram_counts_bytes_of_chinese() -> None:
    ngrams = ByteNgrams(["今天天气好。".encode()] * 5)
    assert ngrams.bits("今天天气好。".encode()) / 18 < 1


def test_ngram_needs_text() -> None:
    with pytest.raises(ValueError, match="no text"):
        ByteNgrams([b""])


def test_source_language_decides_the_part() -> None:
    rows = (document("从前有一只小狐狸，它住在森林里。"), document("今天天气很好，我们去公园。"))
    outcome = evaluate_likelihood(FakeModel(), [EvaluationSource("generate/x", rows)], SilentProgress())
    assert {score.part for score in outcome.scores} == {"zh"}
