"""Translations: corpus BLEU and chrF of sacrebleu, both directions of every source, next to copying the source."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from model.evaluation.bootstrap import CorpusScore, as_statistics
from model.evaluation.data import EvaluationSource
from model.evaluation.optional import import_extra
from model.evaluation.progress import Progress
from model.evaluation.requests import Model, Translate
from model.evaluation.scores import Baseline, Example, Outcome, Score, ScoreOf, join


@dataclass(frozen=True, slots=True)
class Pair:
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


def directions(source: EvaluationSource) -> dict[str, list[Pair]]:
    """The pairs of a source by direction, such as "en-zh" and "zh-en"."""
    by_direction: dict[str, list[Pair]] = {}
    for row in source.rows:
        text, other = row["source"].strip(), row["target"].strip()
        forth = Pair(text, other, row["source_lang"], row["target_lang"])
        back = Pair(other, text, row["target_lang"], row["source_lang"])
        for pair in (forth, back):
            by_direction.setdefault(pair.direction, []).append(pair)
    return by_direction


def bleu(language: str) -> Any:
    """sacrebleu's BLEU, with its tokenizer for Chinese where the target is Chinese."""
    return import_extra("sacrebleu").BLEU(tokenize="zh" if language == "zh" else "13a")


def chrf() -> Any:
    """sacrebleu's chrF2."""
    return import_extra("sacrebleu").CHRF()


def corpus_score(metric: Any, hypotheses: Sequence[str], references: Sequence[str]) -> CorpusScore:
    """A sacrebleu metric as a function of its own sentence statistics, the ones that it resamples too."""
    statistics = metric._extract_corpus_statistics(list(hypotheses), [list(references)])
    return CorpusScore(as_statistics(statistics), lambda sums_S: float(metric._compute_score_from_stats(sums_S).score))


def _direction(model: Model, name: str, pairs: Sequence[Pair], progress: Progress) -> Outcome:
    requests = [Translate(pair.source, pair.source_lang, pair.target_lang) for pair in pairs]
    direction = pairs[0].direction
    answers = model.generate(requests, progress.stage(f"{name} {direction}", len(requests)))
    of = ScoreOf(name, direction)
    scores = (
        _score(of, "BLEU", bleu(pairs[0].target_lang), answers, pairs),
        _score(of, "chrF", chrf(), answers, pairs),
    )
    examples = [
        Example(name, direction, pair.source, pair.target, answer) for pair, answer in zip(pairs, answers, strict=True)
    ]
    return Outcome(scores, (examples[0],), (min(examples, key=_quality),))


def _score(of: ScoreOf, name: str, metric: Any, answers: Sequence[str], pairs: Sequence[Pair]) -> Score:
    references = [pair.target for pair in pairs]
    measured = corpus_score(metric, answers, references)
    copy = corpus_score(metric, [pair.source for pair in pairs], references)
    signature = str(metric.get_signature())
    return of(name, measured, baselines=[Baseline("copy source", copy.value)], signature=signature)


def _quality(example: Example) -> float:
    return float(chrf().sentence_score(example.answer, [example.expected]).score)
