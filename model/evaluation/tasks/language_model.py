"""Likelihood of texts and of chat answers: bits per byte and perplexity, by source and by language, next to an n-gram.

Bits per byte do not depend on the tokenizer; perplexity is per token of the model, the n-gram's over the same tokens.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from model.evaluation.baselines import ByteNgrams
from model.evaluation.data import EvaluationSource
from model.evaluation.progress import Progress
from model.evaluation.requests import Likelihood, Model, ReplyLikelihood, ScoringRequest, TextLikelihood
from model.evaluation.scores import Array, Baseline, CorpusScore, Outcome, Score, ScoreOf, as_statistics, ratio_score
from model.training.data.rows import Row

NGRAM_BYTES = 4_000_000  # of training text, at most, for the n-gram model
TRAINING_ROWS = 20_000
ALL_SOURCES = "all"


@dataclass(frozen=True, slots=True)
class Passage:
    """A text to score after the text before it, which is empty for a document."""

    before: str
    text: str


@dataclass(frozen=True, slots=True)
class SourceLikelihoods:
    """Likelihoods of the samples of one source, and the information of the same bytes for the n-gram model, if any."""

    likelihoods: tuple[Likelihood, ...]
    ngram_bits: tuple[float, ...] | None


def bits_per_byte(likelihoods: Sequence[Likelihood]) -> CorpusScore:
    bits = [-likelihood.log_likelihood / math.log(2) for likelihood in likelihoods]
    return ratio_score(bits, [likelihood.bytes for likelihood in likelihoods])


def perplexity(likelihoods: Sequence[Likelihood]) -> CorpusScore:
    """Per token of the model."""
    statistics = as_statistics((-likelihood.log_likelihood, likelihood.tokens) for likelihood in likelihoods)
    return CorpusScore(statistics, _exp_ratio)


def scoring_request(row: Row) -> ScoringRequest:
    """What is asked of a row: a document as a whole, of a conversation the last answer."""
    if row["task"] == "generate":
        return TextLikelihood(row["text"].strip())
    *before, last = row["messages"]
    return ReplyLikelihood(tuple(before), last["content"].strip())


def evaluate_likelihood(model: Model, sources: Sequence[EvaluationSource], progress: Progress) -> Outcome:
    """Score whole documents, and the last answer of each conversation given what was said before."""
    scores: list[Score] = []
    by_language: dict[str, list[SourceLikelihoods]] = {}
    for source in sources:
        measured, language = _measure(model, source, progress), source.language()
        scores += _scores(ScoreOf(source.name, language), measured)
        by_language.setdefault(language, []).append(measured)
    for language, parts in by_language.items():
        if len(parts) > 1:
            scores += _scores(ScoreOf(f"{sources[0].task}/{ALL_SOURCES}", language), _pool(parts))
    return Outcome(tuple(scores))


def _measure(model: Model, source: EvaluationSource, progress: Progress) -> SourceLikelihoods:
    requests = [scoring_request(row) for row in source.rows]
    likelihoods = model.score(requests, progress.stage(f"{source.name} likelihood", len(requests)))
    ngrams = _learn(source)
    if ngrams is None:
        return SourceLikelihoods(tuple(likelihoods), None)
    passages = [_passage(row) for row in source.rows]
    bits = [_ngram_bits(ngrams, *pair) for pair in zip(passages, likelihoods, strict=True)]
    return SourceLikelihoods(tuple(likelihoods), tuple(bits))


def _scores(of: ScoreOf, measured: SourceLikelihoods) -> list[Score]:
    likelihoods, bits = measured.likelihoods, measured.ngram_bits
    per_byte, per_token = list[Baseline](), list[Baseline]()
    if bits is not None:
        per_byte = [_ngram(ratio_score(bits, [likelihood.bytes for likelihood in likelihoods]).value)]
        per_token = [_ngram(2 ** ratio_score(bits, [likelihood.tokens for likelihood in likelihoods]).value)]
    return [
        of("bits per byte", bits_per_byte(likelihoods), better="lower", baselines=per_byte, digits=3),
        of("perplexity", perplexity(likelihoods), better="lower", baselines=per_token, signature="per token"),
    ]


def _ngram(value: float) -> Baseline:
    return Baseline("byte n-gram", value)


def _pool(parts: Sequence[SourceLikelihoods]) -> SourceLikelihoods:
    likelihoods = tuple(likelihood for part in parts for likelihood in part.likelihoods)
    if any(part.ngram_bits is None for part in parts):
        return SourceLikelihoods(likelihoods, None)
    return SourceLikelihoods(likelihoods, tuple(bits for part in parts for bits in part.ngram_bits or ()))


def _passage(row: Row) -> Passage:
    if row["task"] == "generate":
        return Passage("", row["text"].strip())
    *before, last = row["messages"]
    return Passage("".join(f"{message['content'].strip()}\n" for message in before), last["content"].strip())


def _learn(source: EvaluationSource) -> ByteNgrams | None:
    passages = (_passage(row) for row in source.training_rows(TRAINING_ROWS))
    texts = list(_limited((passage.before + passage.text).encode() for passage in passages))
    return ByteNgrams(texts) if texts else None


def _limited(texts: Iterable[bytes]) -> Iterable[bytes]:
    """The first texts, up to NGRAM_BYTES together."""
    size = 0
    for text in texts:
        if size > NGRAM_BYTES:
            return
        size += len(text)
        yield text


def _ngram_bits(ngrams: ByteNgrams, passage: Passage, likelihood: Likelihood) -> float:
    """The same bytes that the model scored, which may lack the first token."""
    text = passage.text.encode()
    cut = len(text) - likelihood.bytes
    return ngrams.bits(text[cut:], passage.before.encode() + text[:cut])


def _exp_ratio(sums_S: Array) -> float:
    return math.exp(sums_S[0] / sums_S[1]) if sums_S[1] else 1.0
