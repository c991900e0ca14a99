"""The card of a model: a page that a person reads, and beside it every number of the evaluation and the training."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from model.evaluation.report import EvaluationReport, experts_table, score_tables, signature_list, unbeaten_list
from model.evaluation.scores import RESAMPLES, Sample, Score
from model.evaluation.tables import table
from model.evaluation.training_facts import CurvePoint, TrainingFacts
from model.evaluation.verdicts import main_scores

CARD, CARD_DETAILS = "MODEL_CARD.md", "MODEL_CARD_DETAILS.md"
ALL_PARTS = "all"
SHOWN_CHARACTERS = 400  # of a text in an example


@dataclass(frozen=True, slots=True)
class DataSource:
    """One source of training texts. `origin` names the repositories and commits that the copies were taken from."""

    name: str  # such as "translate/tatoeba-en-zh"
    origin: str
    licence: str
    attribution: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where the training texts come from, how they were changed, and where their licences stand, by name."""

    sources: tuple[DataSource, ...]
    changes: str
    licence_texts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What the card says besides the evaluation. `recipe` are named facts of the training, in words.

    `examples` stand for one answer per task; left out, they are the first rows that were evaluated.
    """

    name: str
    description: str
    hardware: str
    commands: Sequence[str]
    training: TrainingFacts
    provenance: Provenance
    recipe: Mapping[str, str]
    intended_use: Sequence[str]
    not_for: Sequence[str]
    known_limits: Sequence[str]
    languages: Sequence[str]
    tags: Sequence[str]  # for hubs
    trained_experts: str  # per token, in words: such as "1 or 2"
    examples: Sequence[Sample] = ()
    headline: Sequence[str] = ("*",)  # patterns of the sources whose main scores are on the page
    loss_plot: str | None = None  # a file beside the card


def model_card(facts: CardFacts, report: EvaluationReport) -> str:
    """The page: front matter for hubs, then Markdown."""
    sections = {
        "Intended use": _list(facts.intended_use),
        "Not for": _list(facts.not_for),
        "Examples": "The first of each kind, not the best.\n\n"
        + _examples(facts.examples or _one_per_task(report.examples)),
        "How good it is": _headline(facts, report),
        "Known limits": _list(facts.known_limits),
    }
    return f"{_front_matter(facts)}\n\n# {facts.name}\n\n{facts.description.strip()}\n\n{_sections(sections)}\n"


def card_details(facts: CardFacts, report: EvaluationReport) -> str:
    """The file beside the page: all scores, the training and its data, as Markdown."""
    sections = {
        "Evaluation": _evaluation(report),
        **({"By experts per token": _experts(facts, report)} if report.experts else {}),
        "Not better than a trivial baseline": _unbeaten(report),
        "Known failures": _failures(report),
        "Training": _training(facts),
        "Training data": _data(facts.provenance),
        "Reproduce": _code("\n".join(facts.commands)),
    }
    return f"# {facts.name} in detail\n\nThe page to read first is [{CARD}]({CARD}).\n\n{_sections(sections)}\n"


def _sections(sections: Mapping[str, str]) -> str:
    return "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())


def _headline(facts: CardFacts, report: EvaluationReport) -> str:
    """The main scores of the sources on the page, each beside the best of its baselines."""
    shown = [
        score
        for score in main_scores(report)
        if any(fnmatchcase(score.source, pattern) for pattern in facts.headline)
        and (score.part == ALL_PARTS) == (score.task == "interview")
    ]
    rows = [[score.task, _what(score), score.metric, score.show(score.value), _best(score)] for score in shown]
    about = f"All scores with their intervals, the training and its data: [{CARD_DETAILS}]({CARD_DETAILS})."
    return f"{table(('task', 'texts', 'metric', 'score', 'without a model'), rows)}\n\n{about}"


def _what(score: Score) -> str:
    source = score.source.partition("/")[2]
    return source if score.part in source or score.part == ALL_PARTS else f"{source}, {score.part}"


def _best(score: Score) -> str:
    """The best baseline; behind it what has to be said where it is not beaten."""
    if not score.baselines:
        return ""
    sign = 1 if score.better == "higher" else -1
    best = max(score.baselines, key=lambda baseline: sign * baseline.value)
    return f"{score.show(best.value)} ({best.name})" + (", **not beaten**" if score.unbeaten else "")


def _front_matter(facts: CardFacts) -> str:
    lines = ["---", "license: apache-2.0", "language:", *(f"- {language}" for language in facts.languages)]
    return "\n".join([*lines, "pipeline_tag: text-generation", "tags:", *(f"- {tag}" for tag in facts.tags), "---"])


def _evaluation(report: EvaluationReport) -> str:
    about = (
        f"Rows of the {report.split} files, which the model was not trained on. 95 % intervals come from {RESAMPLES} "
        "bootstrap resamples of the rows. Baselines are what needs no network; a score is better than one when its "
        "whole interval is. Numbers in brackets are for orientation and are not to be beaten. BLEU, chrF, ROUGE, "
        "accuracy, F1, distinct and repetition are in percent."
    )
    parts = [about, score_tables(report.scores, level=3), "How they were computed:", signature_list(report.scores)]
    if report.skipped:
        parts += ["Not evaluated:", _list(f"{skipped.what}: {skipped.reason}" for skipped in report.skipped)]
    parts.append(f"The evaluation took {report.seconds / 60:.1f} minutes.")
    return "\n\n".join(parts)


def _experts(facts: CardFacts, report: EvaluationReport) -> str:
    about = (
        f"It was trained with {facts.trained_experts} experts per token at random, so the number can be chosen when "
        "serving (`--experts-per-token`). Means of the main scores over some sources, the first rows of each:"
    )
    return f"{about}\n\n{experts_table(report.experts)}"


def _unbeaten(report: EvaluationReport) -> str:
    text = unbeaten_list(report.scores)
    return f"Do not use the model for these:\n\n{text}" if report.unbeaten else text


def _failures(report: EvaluationReport) -> str:
    return "The worst answer of each task in this evaluation:\n\n" + _examples(_one_per_task(report.failures))


def _training(facts: CardFacts) -> str:
    run = facts.training
    known = {
        "tokens": f"{run.tokens:,}",
        "optimizer steps": f"{run.steps:,}",
        "hardware": facts.hardware,
        "time": f"{run.hours:.1f} hours",
        "speed": f"{run.tokens_per_second:,.0f} tokens/s",
        "final training loss": f"{run.final_loss:.3f} nats per token",
        "final MaxVio": f"{run.final_max_violation:.2f} (how far the busiest expert is above the mean load)",
        **facts.recipe,
    }
    parts = [table(("what", "value"), list(known.items())), "The loss on the way:", _curve(run.curve)]
    if facts.loss_plot:
        parts.append(f"![Losses over tokens]({facts.loss_plot})")
    losses = [[source, f"{loss:.3f}"] for source, loss in sorted(run.validation.items())]
    parts += ["Final validation loss, nats per token of the answers:", table(("source", "loss"), losses)]
    return "\n\n".join(parts)


def _curve(points: Sequence[CurvePoint]) -> str:
    rows = [
        [f"{point.tokens / 1e6:.2f}", f"{point.loss:.3f}", "" if point.valid is None else f"{point.valid:.3f}"]
        for point in points
    ]
    return table(("million tokens", "training loss", "mean validation loss"), rows)


def _data(provenance: Provenance) -> str:
    rows = [[source.name, source.origin, source.licence, source.attribution] for source in provenance.sources]
    links = ", ".join(f"[{name}]({link})" for name, link in provenance.licence_texts.items())
    sources = table(("source", "copied from", "licence", "credit"), rows)
    return f"{sources}\n\n{provenance.changes}\n\nLicence texts: {links}."


def _examples(examples: Sequence[Sample]) -> str:
    if not examples:
        return "None."
    return "\n\n".join(_example(example) for example in examples)


def _example(example: Sample) -> str:
    texts = {"asked": example.prompt, "expected": example.expected, "answered": example.answer}
    lines = [f"**{example.source}, {example.part}**", ""]
    return "\n".join([*lines, *(f"- {name}: {_inline(text)}" for name, text in texts.items())])


def _one_per_task(examples: Sequence[Sample]) -> list[Sample]:
    """The first of each task; of translation, the first of each direction."""
    firsts: dict[tuple[str, str], Sample] = {}
    for example in examples:
        firsts.setdefault((example.task, example.part if example.task == "translate" else ""), example)
    return list(firsts.values())


def _inline(text: str) -> str:
    """A text as code on one line, cut where it is long."""
    line = " ".join(text.split()).replace("`", "'")
    cut = line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]} …"
    return f"`{cut}`" if cut else "(nothing)"


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _code(text: str) -> str:
    return f"```sh\n{text}\n```"
