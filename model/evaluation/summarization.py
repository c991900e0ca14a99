"""Summaries: ROUGE-1, ROUGE-2 and ROUGE-L, next to the document itself, its first words and its first sentence."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from model.evaluation.bootstrap import mean_score
from model.evaluation.data import EvaluationSource
from model.evaluation.optional import import_extra
from model.evaluation.progress import Progress
from model.evaluation.requests import Model, Summarize
from model.evaluation.scores import Baseline, Example, Outcome, Score, ScoreOf, join
from model.evaluation.words import split_words
from model.training.examples import length_of

METRICS = {"ROUGE-1": "rouge1", "ROUGE-2": "rouge2", "ROUGE-L": "rougeL"}
LEAD_WORDS = 8
LEAD_CHARACTERS = 12  # in Chinese
ROWS_TO_TELL_LENGTH = 1000
_SENTENCE = re.compile(r".*?(?:[.!?][\"'”’)]*(?=\s|$)|[。！？][”’」）]*|$)", re.DOTALL)


class RougeScorer:
    """F-measures in percent: English words by their stem, Chinese by the character, other languages by the word."""

    def __init__(self, language: str) -> None:
        tokenizer = None if language == "en" else _Words()
        scorer = import_extra("rouge_score.rouge_scorer")
        self._scorer = scorer.RougeScorer(list(METRICS.values()), use_stemmer=True, tokenizer=tokenizer)
        self.signature = f"rouge_score|f-measure|tok:{'stemmed words' if tokenizer is None else 'words, zh characters'}"

    def __call__(self, reference: str, summary: str) -> dict[str, float]:
        """ROUGE by metric name."""
        found: dict[str, Any] = self._scorer.score(reference, summary)
        return {name: 100 * found[rouge].fmeasure for name, rouge in METRICS.items()}


class _Words:
    """What rouge_score takes for a tokenizer; its own one knows only the letters of English."""

    def tokenize(self, text: str) -> list[str]:
        return split_words(text)


def evaluate_summarization(model: Model, sources: Sequence[EvaluationSource], progress: Progress) -> Outcome:
    """Score every source, asked for the length that its summaries usually have."""
    return join([_source(model, source, progress) for source in sources])


def lead(document: str, language: str) -> str:
    """The first eight words; in Chinese the first twelve characters."""
    return document[:LEAD_CHARACTERS] if language == "zh" else " ".join(document.split()[:LEAD_WORDS])


def first_sentence(document: str) -> str:
    found = _SENTENCE.match(document.strip())
    assert found is not None
    return found.group()


def usual_length(source: EvaluationSource, language: str) -> str:
    """The length most training summaries of a source have: the length of a reference itself is not to be known."""
    rows = source.training_rows(ROWS_TO_TELL_LENGTH)
    lengths = Counter(length_of(row["summary"].strip(), language) for row in rows)
    return lengths.most_common(1)[0][0] if lengths else "medium"


def _baselines(language: str) -> dict[str, Callable[[str], str]]:
    return {"copy document": str, "lead": lambda document: lead(document, language), "first sentence": first_sentence}


def _source(model: Model, source: EvaluationSource, progress: Progress) -> Outcome:
    language = source.language()
    documents = [row["document"].strip() for row in source.rows]
    references = [row["summary"].strip() for row in source.rows]
    length = usual_length(source, language)
    requests = [Summarize(document, language, length) for document in documents]
    answers = model.generate(requests, progress.stage(source.name, len(requests)))
    scorer = RougeScorer(language)
    ours = _all_rouge(scorer, references, answers)
    others = {
        name: _all_rouge(scorer, references, [shorten(document) for document in documents])
        for name, shorten in _baselines(language).items()
    }
    of = ScoreOf(source.name, language)
    signature = f"{scorer.signature}|length:{length}"
    scores = [_score(of, name, ours, others, signature) for name in METRICS]
    examples = [Example(source.name, language, *texts) for texts in zip(documents, references, answers, strict=True)]
    worst = min(range(len(examples)), key=lambda index: ours["ROUGE-1"][index])
    return Outcome(tuple(scores), (examples[0],), (examples[worst],))


def _score(
    of: ScoreOf, name: str, ours: dict[str, list[float]], others: dict[str, dict[str, list[float]]], signature: str
) -> Score:
    baselines = [Baseline(title, mean_score(values[name]).value) for title, values in others.items()]
    return of(name, mean_score(ours[name]), baselines=baselines, signature=signature)


def _all_rouge(scorer: RougeScorer, references: Sequence[str], summaries: Sequence[str]) -> dict[str, list[float]]:
    """The values of every sample by metric."""
    found = [scorer(reference, summary) for reference, summary in zip(references, summaries, strict=True)]
    return {name: [values[name] for values in found] for name in METRICS}
