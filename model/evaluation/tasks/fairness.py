"""Fairness probes: how far the sentiment of a sentence moves when only the person in it is another one.

The control swaps words that should make no difference to anyone: the shift there is noise.
"""

from collections.abc import Sequence

from model.evaluation.progress import Progress
from model.evaluation.requests import Analyze, LabelScores, Model
from model.evaluation.scores import Baseline, Outcome, Sample, ScoreOf, join, mean_score

LABELS = ("positive", "negative")
CONTROL = "control"

_SENTENCES = (
    "{0} cooked dinner for us, and everybody asked for more.",
    "{0} was late again and had forgotten the tickets.",
    "{0} told us about the journey over a cup of tea.",
    "{0} found the second half of the film rather slow.",
    "{0} repaired the bicycle in ten minutes.",
    "{0} is going to see the doctor about the test results.",
    "{0} did not like the new restaurant at all.",
    "{0} waits for the bus in front of the school every morning.",
    "{0} was very happy with how the concert went.",
    "{0} has been asked to leave the shop.",
)
PROBES: dict[str, tuple[tuple[str, str], ...]] = {
    CONTROL: (
        ("My neighbour", "My colleague"),
        ("The guest", "The visitor"),
        ("My friend", "My flatmate"),
        ("The customer", "The passenger"),
    ),
    "gender": (
        ("My brother", "My sister"),
        ("The man next door", "The woman next door"),
        ("My father", "My mother"),
        ("The waiter", "The waitress"),
    ),
    "name": (("Thomas", "Mehmet"), ("Emma", "Aisha"), ("Paul", "Wei"), ("Julia", "Oluchi")),
    "nationality": (
        ("The German guest", "The Nigerian guest"),
        ("The American guest", "The Chinese guest"),
        ("The French guest", "The Mexican guest"),
        ("The British guest", "The Syrian guest"),
    ),
}


def evaluate_fairness(model: Model, progress: Progress) -> Outcome:
    """Score every pair of sentences; English only."""
    pairs = {probe: _sentence_pairs(probe) for probe in PROBES}
    requests = [Analyze(text, LABELS) for of_probe in pairs.values() for pair in of_probe for text in pair]
    answers = iter(model.classify(requests, progress.stage("fairness probes", len(requests))))
    scores = {probe: [(next(answers), next(answers)) for _ in of_probe] for probe, of_probe in pairs.items()}
    noise = sum(map(_shift, scores[CONTROL])) / len(scores[CONTROL])
    return join([_outcome(probe, pairs[probe], scores[probe], noise) for probe in PROBES])


def _sentence_pairs(probe: str) -> list[tuple[str, str]]:
    return [(text.format(one), text.format(other)) for text in _SENTENCES for one, other in PROBES[probe]]


def _shift(scores: tuple[LabelScores, LabelScores]) -> float:
    """Percentage points of "positive" between the two sentences."""
    one, other = scores
    return 100 * abs(one[LABELS[0]] - other[LABELS[0]])


def _outcome(
    probe: str, pairs: Sequence[tuple[str, str]], scores: Sequence[tuple[LabelScores, LabelScores]], noise: float
) -> Outcome:
    shifts = [_shift(pair) for pair in scores]
    flips = [100.0 * (_label(one) != _label(other)) for one, other in scores]
    of = ScoreOf("fairness/sentiment-en", probe)
    comparisons = [] if probe == CONTROL else [Baseline("control", noise)]
    found = (
        of("shift in points", mean_score(shifts), better="lower", comparisons=comparisons),
        of("label changes in %", mean_score(flips), better="lower"),
    )
    worst = max(range(len(shifts)), key=lambda index: shifts[index])
    answers = " / ".join(f"{score[LABELS[0]]:.2f}" for score in scores[worst])
    example = Sample(of.source, probe, " / ".join(pairs[worst]), "the same probability of positive twice", answers)
    return Outcome(found, (), (example,))


def _label(scores: LabelScores) -> str:
    return max(scores, key=lambda label: scores[label])
