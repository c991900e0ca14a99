"""Labels: accuracy, macro-F1 and calibration, next to the most frequent label and a bag of words.

Shapes: N samples, L labels, B bins, S statistics.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from model.evaluation.baselines import BagOfWords
from model.evaluation.data import EvaluationSource
from model.evaluation.progress import Progress
from model.evaluation.requests import Analyze, LabelScores, Model
from model.evaluation.scores import Array, Baseline, CorpusScore, Outcome, Sample, Score, ScoreOf, join, mean_score

BINS = 15
TRAINING_ROWS = 20_000  # at most, for the bag of words


@dataclass(frozen=True, slots=True)
class Predictions:
    """The right labels of N samples, the predicted ones, and the probability that was given to the predicted one."""

    right: tuple[str, ...]
    predicted: tuple[str, ...]
    confidence: tuple[float, ...]

    @classmethod
    def of(cls, right: Sequence[str], scores: Sequence[LabelScores]) -> "Predictions":
        """Predict the label of the highest score, the first of equals."""
        predicted = tuple(max(row, key=lambda label: row[label]) for row in scores)
        confidence = tuple(row[label] for row, label in zip(scores, predicted, strict=True))
        return cls(tuple(right), predicted, confidence)

    @property
    def hits(self) -> list[bool]:
        return [right == predicted for right, predicted in zip(self.right, self.predicted, strict=True)]

    @property
    def knows_confidence(self) -> bool:
        """False for a model that only names a label: its calibration cannot be told."""
        return any(confidence < 1 for confidence in self.confidence)


def accuracy(predictions: Predictions) -> CorpusScore:
    """Share of right labels, in percent."""
    return mean_score([100.0 * hit for hit in predictions.hits])


def macro_f1(predictions: Predictions) -> CorpusScore:
    """Mean over labels of F1, in percent. Labels that neither are right nor are predicted anywhere are left out."""
    labels = sorted({*predictions.right, *predictions.predicted})
    right_NL = _one_hot(predictions.right, labels)
    predicted_NL = _one_hot(predictions.predicted, labels)
    statistics_NS = np.concatenate([right_NL * predicted_NL, right_NL + predicted_NL], axis=1)

    def score_of(sums_S: Array) -> float:
        hits_L, all_L = np.split(sums_S, 2)
        seen_L = all_L > 0
        return float(100 * np.mean(2 * hits_L[seen_L] / all_L[seen_L]))

    return CorpusScore(statistics_NS, score_of)


def calibration_error(predictions: Predictions) -> CorpusScore:
    """ECE over 15 bins of equal width: how far confidence is from accuracy inside a bin, weighted by its samples."""
    confidence_N = np.array(predictions.confidence)
    gap_N = np.array(predictions.hits, dtype=np.float64) - confidence_N
    bins_N = np.minimum((confidence_N * BINS).astype(np.int64), BINS - 1)
    in_bin_NB = np.eye(BINS)[bins_N]
    statistics_NS = np.concatenate([in_bin_NB * gap_N[:, None], in_bin_NB], axis=1)
    return CorpusScore(statistics_NS, lambda sums_S: float(np.abs(sums_S[:BINS]).sum() / sums_S[BINS:].sum()))


def evaluate_analysis(model: Model, sources: Sequence[EvaluationSource], progress: Progress) -> Outcome:
    """Score every source: the label of the highest likelihood counts, nothing is generated."""
    return join([_source(model, source, progress) for source in sources])


def _source(model: Model, source: EvaluationSource, progress: Progress) -> Outcome:
    texts = [row["text"].strip() for row in source.rows]
    right = [row["label"] for row in source.rows]
    requests = [Analyze(text, tuple(row["label_set"])) for text, row in zip(texts, source.rows, strict=True)]
    scores = model.classify(requests, progress.stage(source.name, len(requests)))
    predictions = Predictions.of(right, scores)
    language = source.language()
    examples = [
        Sample(source.name, language, f"{request.text}\n[{', '.join(request.labels)}]", label, answer)
        for request, label, answer in zip(requests, right, predictions.predicted, strict=True)
    ]
    of = ScoreOf(source.name, language)
    return Outcome(_scores(of, predictions, _baselines(source, texts, right)), (examples[0],), _worst(examples, scores))


def _scores(of: ScoreOf, ours: Predictions, others: Mapping[str, Predictions]) -> tuple[Score, ...]:
    def baselines(measure: Callable[[Predictions], CorpusScore]) -> list[Baseline]:
        return [Baseline(name, measure(predictions).value) for name, predictions in others.items()]

    scores = [
        of("accuracy", accuracy(ours), baselines=baselines(accuracy)),
        of("macro-F1", macro_f1(ours), baselines=baselines(macro_f1)),
    ]
    if ours.knows_confidence:
        learnt = [other for other in baselines(calibration_error) if other.name == "bag of words"]
        error = calibration_error(ours)
        scores.append(of("ECE", error, better="lower", comparisons=learnt, signature=f"{BINS} bins", digits=3))
    return tuple(scores)


def _baselines(source: EvaluationSource, texts: Sequence[str], right: Sequence[str]) -> dict[str, Predictions]:
    """Predictions of the most frequent label and of a bag of words: from training rows, where they are at hand."""
    rows = list(source.training_rows(TRAINING_ROWS))
    labels = [row["label"] for row in rows] or list(right)
    [(majority, count)] = Counter(labels).most_common(1)
    found = {"majority": Predictions.of(right, [{majority: count / len(labels)}] * len(texts))}
    if rows:
        learnt = BagOfWords([row["text"] for row in rows], labels)
        found["bag of words"] = Predictions.of(right, learnt.probabilities(texts))
    return found


def _worst(examples: Sequence[Sample], scores: Sequence[LabelScores]) -> tuple[Sample, ...]:
    """The wrong answer that the model was surest of."""
    wrong = [index for index, example in enumerate(examples) if example.answer != example.expected]
    return tuple(examples[index] for index in sorted(wrong, key=lambda index: -max(scores[index].values()))[:1])


def _one_hot(labels: Sequence[str], known: Sequence[str]) -> Array:
    index = {label: number for number, label in enumerate(known)}
    return np.eye(len(known))[[index[label] for label in labels]]
