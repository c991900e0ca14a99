"""MODEL_CARD.md: what a model is, what it was trained on, and every number of its evaluation."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from model.evaluation.bootstrap import RESAMPLES
from model.evaluation.data_sources import CHANGES, LICENCE_TEXTS, DataSource
from model.evaluation.experts import experts_table
from model.evaluation.report import EvaluationReport, score_tables, signature_list, unbeaten_list
from model.evaluation.scores import Example
from model.evaluation.tables import table
from model.evaluation.training_facts import CurvePoint, TrainingFacts

LANGUAGES = ("en", "zh", "de", "fr")
TAGS = ("mixture-of-experts", "routing", "gated-deltanet", "hybrid-attention", "translation", "summarization")
SHOWN_CHARACTERS = 400  # of a text in an example

INTENDED_USE = (
    "translation of short everyday sentences between English and Chinese, German or French",
    "one-line summaries and titles of short English texts",
    "choosing one of a few given labels for a short English or Chinese text",
    "small talk and short stories, for trying out and testing",
    "studying and testing routed and recurrent networks and the servers that run them",
)
NOT_FOR = (
    "facts, advice or decisions about people: the model knows little and invents the rest",
    "medicine, law, money, safety, or any use where a wrong answer does harm",
    "texts longer than a page, code, mathematics, or languages other than the four",
    "publishing what it writes without a person who reads it first",
)
KNOWN_LIMITS = (
    "It is tiny: it copies patterns of its training data, loses the thread after a few sentences, and repeats itself.",
    "Rare words and names are often translated wrongly or left out.",
    "German and French are known from translation only; chat and summaries are English, chat also Chinese.",
    "Part of the training text is old fiction, web comments and reviews, with the prejudices of their authors.",
)


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
    sources: Sequence[DataSource]
    recipe: Mapping[str, str] = field(default_factory=dict)
    examples: Sequence[Example] = ()
    intended_use: Sequence[str] = INTENDED_USE
    not_for: Sequence[str] = NOT_FOR
    known_limits: Sequence[str] = KNOWN_LIMITS
    languages: Sequence[str] = LANGUAGES
    loss_plot: str | None = None  # a file beside the card


def model_card(facts: CardFacts, report: EvaluationReport) -> str:
    """The whole card: front matter for hubs, then Markdown."""
    sections = {
        "Intended use": _list(facts.intended_use),
        "Not for": _list(facts.not_for),
        "Examples": _examples(facts.examples or _one_per_task(report.examples)),
        "Evaluation": _evaluation(report),
        **({"By experts per token": _experts(report)} if report.experts else {}),
        "Not better than a trivial baseline": _unbeaten(report),
        "Known limits": _list(facts.known_limits),
        "Known failures": _failures(report),
        "Training": _training(facts),
        "Training data": _data(facts.sources),
        "Reproduce": _code("\n".join(facts.commands)),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return f"{_front_matter(facts)}\n\n# {facts.name}\n\n{facts.description.strip()}\n\n{body}\n"


def _front_matter(facts: CardFacts) -> str:
    lines = ["---", "license: apache-2.0", "language:", *(f"- {language}" for language in facts.languages)]
    return "\n".join([*lines, "pipeline_tag: text-generation", "tags:", *(f"- {tag}" for tag in TAGS), "---"])


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


def _experts(report: EvaluationReport) -> str:
    about = (
        "It was trained with 1, 2 or 3 experts per token at random, so the number can be chosen when serving "
        "(`--experts-per-token`). Means of the main scores over some sources, the first rows of each:"
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


def _data(sources: Sequence[DataSource]) -> str:
    rows = [[source.name, source.origin, source.licence, source.attribution] for source in sources]
    links = ", ".join(f"[{name}]({link})" for name, link in LICENCE_TEXTS.items())
    return f"{table(('source', 'copied from', 'licence', 'credit'), rows)}\n\n{CHANGES}\n\nLicence texts: {links}."


def _examples(examples: Sequence[Example]) -> str:
    if not examples:
        return "None."
    return "\n\n".join(_example(example) for example in examples)


def _example(example: Example) -> str:
    texts = {"asked": example.prompt, "expected": example.expected, "answered": example.answer}
    lines = [f"**{example.source}, {example.part}**", ""]
    return "\n".join([*lines, *(f"- {name}: {_inline(text)}" for name, text in texts.items())])


def _one_per_task(examples: Sequence[Example]) -> list[Example]:
    """The first of each task; of translation, the first of each direction."""
    firsts: dict[tuple[str, str], Example] = {}
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
