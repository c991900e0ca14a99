"""The result of an evaluation: as JSON to keep and as Markdown to read."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from model.evaluation.scores import Baseline, Interval, Sample, Score
from model.evaluation.tables import table
from model.files import compact_json
from model.loading.quality import ExpertsRow

HEADER = ("source", "part", "metric", "score", "95 % interval", "baselines", "verdict", "samples")
ROW_WIDTH = 5000  # characters of a line of JSON: a score or an example stands on one
VERDICTS = {True: "better", False: "**not better**"}


@dataclass(frozen=True, slots=True)
class Skipped:
    """What was not evaluated, and why not."""

    what: str
    reason: str


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """All scores of one model on one split of the data."""

    model: str
    split: str
    seconds: float
    scores: tuple[Score, ...]
    examples: tuple[Sample, ...] = ()
    failures: tuple[Sample, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    experts: tuple[ExpertsRow, ...] = ()  # by experts per token, where asked for

    @property
    def unbeaten(self) -> tuple[Score, ...]:
        """The scores that are not clearly better than each of their baselines."""
        return tuple(score for score in self.scores if score.unbeaten)

    def to_json(self) -> str:
        return compact_json(asdict(self), width=ROW_WIDTH)

    @classmethod
    def from_json(cls, text: str) -> "EvaluationReport":
        """Read what `to_json` wrote. ValueError where it is something else."""
        try:
            fields = json.loads(text)
            return cls(
                **{
                    **fields,
                    "scores": tuple(_score(score) for score in fields["scores"]),
                    "examples": tuple(Sample(**example) for example in fields["examples"]),
                    "failures": tuple(Sample(**example) for example in fields["failures"]),
                    "skipped": tuple(Skipped(**skipped) for skipped in fields["skipped"]),
                    "experts": tuple(ExpertsRow(**row) for row in fields.get("experts", ())),
                }
            )
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"this is no evaluation report: {error!r}; make one with routelm evaluate") from error

    def to_markdown(self) -> str:
        """A heading, a table per task, what did not beat its baseline, what was skipped, and the signatures."""
        parts = [
            f"# Evaluation of {self.model}",
            f"Split: {self.split}. Time: {self.seconds / 60:.1f} minutes. Intervals: bootstrap over samples.",
            score_tables(self.scores, level=2),
            "## Not better than a baseline",
            unbeaten_list(self.scores),
        ]
        if self.experts:
            parts += ["## By experts per token", experts_table(self.experts)]
        if self.skipped:
            parts += ["## Not evaluated", "\n".join(f"- {skipped.what}: {skipped.reason}" for skipped in self.skipped)]
        return "\n\n".join([*parts, "## Signatures", signature_list(self.scores)]) + "\n"


def experts_table(rows: Sequence[ExpertsRow]) -> str:
    """Markdown: a row for each number of experts."""
    names = list(rows[0].scores)
    lines = [[str(row.experts), *(f"{row.scores[name]:.2f}" for name in names), f"{row.seconds:.0f}"] for row in rows]
    return table(("experts per token", *names, "seconds for all answers"), lines)


def score_tables(scores: Sequence[Score], level: int) -> str:
    """A Markdown table for each task, under headings of that level."""
    return "\n\n".join(
        f"{'#' * level} {task}\n\n{table(HEADER, map(_cells, of_task))}"
        for task, of_task in groupby(scores, key=lambda score: score.task)
    )


def unbeaten_list(scores: Sequence[Score]) -> str:
    """In words, every score that is not clearly better than each of its baselines."""
    lines = [f"- {_unbeaten_line(score)}" for score in scores if score.unbeaten]
    compared = sum(bool(score.baselines) for score in scores)
    return (
        "\n".join(lines) or f"None: each of the {compared} scores with a baseline is better by more than its interval."
    )


def signature_list(scores: Sequence[Score]) -> str:
    """How each metric was computed, once."""
    lines = dict.fromkeys(f"- {score.metric}: `{score.signature}`" for score in scores if score.signature)
    return "\n".join(lines) or "None."


def _unbeaten_line(score: Score) -> str:
    others = ", ".join(f"{baseline.name} with {score.show(baseline.value)}" for baseline in score.unbeaten)
    ours = f"{score.metric} {score.show(score.value)}{_range(score)}"
    return f"{score.source} ({score.part}): {ours} is not clearly better than {others}."


def _cells(score: Score) -> list[str]:
    others = [f"{other.name} {score.show(other.value)}" for other in score.baselines]
    context = [f"({other.name} {score.show(other.value)})" for other in score.comparisons]
    return [
        score.source.partition("/")[2],
        score.part,
        score.metric,
        f"**{score.show(score.value)}**",
        _range(score).strip(" []"),
        ", ".join([*others, *context]),
        VERDICTS[not score.unbeaten] if score.baselines else "",
        str(score.samples),
    ]


def _range(score: Score) -> str:
    if score.interval is None:
        return ""
    return f" [{score.show(score.interval.low)}, {score.show(score.interval.high)}]"


def _score(fields: dict[str, Any]) -> Score:
    interval = None if fields["interval"] is None else Interval(**fields["interval"])
    others: dict[str, Any] = {
        kind: tuple(Baseline(**other) for other in fields[kind]) for kind in ("baselines", "comparisons")
    }
    return Score(**{**fields, "interval": interval, **others})
