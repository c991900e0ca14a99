"""Summaries: ROUGE-1, ROUGE-2 and ROUGE-L, next to the document itself, its first words and its first sentence."""

from collections import Counter
from collections.abc import Callable, Sequence

from model.evaluation.data import EvaluationSource
from model.evaluation.metrics import ROUGE, RougeScorer
from model.evaluation.progress import Progress
from model.evaluation.requests import Model, Summarize
from model.evaluation.scores import Baseline, Outcome, Sample, Score, ScoreOf, join, mean_score
from model.text.sentence_split import split_sentences
from model.training.data.examples import length_of

LEAD_WORDS = 8
LEAD_CHARACTERS = 12  # in Chinese
ROWS_TO_TELL_LENGTH = 1000


def evaluate_summarization(model: Model, sources: Sequence[EvaluationSource], progress: Progress) -> Outcome:
    """Score every source, asked for the length that its summaries usually have."""
    return join([_source(model, source, progress) for source in sources])


def lead(document: str, language: str) -> str:
    """The first eight words; in Chinese the first twelve characters."""
    return document[:LEAD_CHARACTERS] if language == "zh" else " ".join(document.split()[:LEAD_WORDS])


def first_sentence(document: str) -> str:
    sentences = split_sentences(document).sentences
    return sentences[0].text if sentences else ""


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
    scores = [_score(of, name, ours, others, signature) for name in ROUGE]
    examples = [Sample(source.name, language, *texts) for texts in zip(documents, references, answers, strict=True)]
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
    return {name: [values[name] for values in found] for name in ROUGE}
