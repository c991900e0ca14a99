"""Translations: corpus BLEU and chrF of sacrebleu, both directions of every source, next to copying the source."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from model.evaluation.data import EvaluationSource
from model.evaluation.metrics import bleu, chrf, corpus_score
from model.evaluation.progress import Progress
from model.evaluation.requests import Model, Translate
from model.evaluation.scores import Baseline, Outcome, Sample, Score, ScoreOf, join


@dataclass(frozen=True, slots=True)
class TranslationPair:
    """A sentence and its translation, in one direction."""

    source: str
    target: str
    source_lang: str
    target_lang: str

    @property
    def direction(self) -> str:
        return f"{self.source_lang}-{self.target_lang}"


def evaluate_translation(model: Model, sources: Sequence[EvaluationSource], progress: Progress) -> Outcome:
    """Score both directions of every source."""
    return join(
        [_direction(model, source.name, pairs, progress) for source in sources for pairs in directions(source).values()]
    )


def directions(source: EvaluationSource) -> dict[str, list[TranslationPair]]:
    """The pairs of a source by direction, such as "en-zh" and "zh-en"."""
    by_direction: dict[str, list[TranslationPair]] = {}
    for row in source.rows:
        text, other = row["source"].strip(), row["target"].strip()
        forth = TranslationPair(text, other, row["source_lang"], row["target_lang"])
        back = TranslationPair(other, text, row["target_lang"], row["source_lang"])
        for pair in (forth, back):
            by_direction.setdefault(pair.direction, []).append(pair)
    return by_direction


def _direction(model: Model, name: str, pairs: Sequence[TranslationPair], progress: Progress) -> Outcome:
    requests = [Translate(pair.source, pair.source_lang, pair.target_lang) for pair in pairs]
    direction = pairs[0].direction
    answers = model.generate(requests, progress.stage(f"{name} {direction}", len(requests)))
    of = ScoreOf(name, direction)
    scores = (
        _score(of, "BLEU", bleu(pairs[0].target_lang), answers, pairs),
        _score(of, "chrF", chrf(), answers, pairs),
    )
    examples = [
        Sample(name, direction, pair.source, pair.target, answer) for pair, answer in zip(pairs, answers, strict=True)
    ]
    return Outcome(scores, (examples[0],), (min(examples, key=_quality),))


def _score(of: ScoreOf, name: str, metric: Any, answers: Sequence[str], pairs: Sequence[TranslationPair]) -> Score:
    references = [pair.target for pair in pairs]
    measured = corpus_score(metric, answers, references)
    copy = corpus_score(metric, [pair.source for pair in pairs], references)
    signature = str(metric.get_signature())
    return of(name, measured, baselines=[Baseline("copy source", copy.value)], signature=signature)


def _quality(example: Sample) -> float:
    return float(chrf().sentence_score(example.answer, [example.expected]).score)
