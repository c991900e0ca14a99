"""Measured quality of a model by task: quality.json beside its weights, written by `routelm evaluate`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from model.files import Directory, read_object

QUALITY_NAME = "quality.json"
NAMED = 3  # sources in a warning


@dataclass(frozen=True, slots=True)
class TaskScore:
    """The main score of a task on one source, and the best trivial baseline.

    `part` is the direction of a translation, otherwise a language. `better`: the whole 95 % interval of the score, from
    `low` to `high` if it is known, is better than the baseline.
    """

    task: str
    source: str
    part: str
    metric: str
    value: float
    baseline: str
    baseline_value: float
    better: bool
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        _check_type(str, self.task, self.source, self.part, self.metric, self.baseline)
        _check_type(int | float, self.value, self.baseline_value)
        _check_type(int | float | None, self.low, self.high)

    def __str__(self) -> str:
        known = self.low is not None and self.high is not None
        interval = f", 95 % interval {self.low:.4g} to {self.high:.4g}" if known else ""
        figures = f"{self.metric} {self.value:.4g}{interval}, {self.baseline} {self.baseline_value:.4g}"
        return f"{self.part} of {self.source} ({figures})"


@dataclass(frozen=True, slots=True)
class ExpertsRow:
    """The mean main score of each task with so many experts per token, and how long it took to answer it all."""

    experts: int
    scores: Mapping[str, float]  # by "task metric"
    seconds: float

    def __post_init__(self) -> None:
        _check_type(int, self.experts)
        _check_type(Mapping, self.scores)
        _check_type(int | float, self.seconds, *self.scores.values())


@dataclass(frozen=True, slots=True)
class Quality:
    """All scores of a model; empty if it was not evaluated. `experts`: by experts per token, where compared."""

    measured: tuple[TaskScore, ...] = ()
    experts: tuple[ExpertsRow, ...] = ()

    @classmethod
    def load(cls, directory: Directory) -> "Quality":
        """Read the quality.json of a checkpoint; empty if there is none. ValueError if it is damaged."""
        path = directory / QUALITY_NAME
        if not path.is_file():
            return cls()
        try:
            fields = read_object(path)
            measured = tuple(TaskScore(**entry) for entry in fields["measured"])
            return cls(measured, tuple(ExpertsRow(**row) for row in fields.get("experts", ())))
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is not what routelm evaluate writes: {error!r}; delete it or write it again"
            ) from None

    def save(self, directory: Path) -> None:
        lines = {"measured": [asdict(entry) for entry in self.measured]}
        if self.experts:
            lines["experts"] = [asdict(row) for row in self.experts]
        text = json.dumps(lines, ensure_ascii=False, indent=1)
        (directory / QUALITY_NAME).write_text(text + "\n", encoding="utf-8")

    def warnings(self, task: str, part: str | None = None) -> list[str]:
        """At most one short warning: that the model is not good at a task, or a part of it. It begins with a code."""
        entries, weak = self._weak(task, part)
        return [f"{_verdict(task, part, entries, weak)}, see the scores at /v1/models."] if weak else []

    def all_warnings(self) -> list[str]:
        """The same for each task as a whole, with the scores."""
        found = {task: self._weak(task) for task in self.tasks}
        return [_with_scores(task, entries, weak) for task, (entries, weak) in found.items() if weak]

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(entry.task for entry in self.measured))

    def _weak(self, task: str, part: str | None = None) -> tuple[Sequence[TaskScore], Sequence[TaskScore]]:
        """What was measured, and those where the model is no better than a baseline."""
        entries = [entry for entry in self.measured if entry.task == task and part in (None, entry.part)]
        return entries, [entry for entry in entries if not entry.better]


def _check_type(kind: Any, *values: object) -> None:
    """TypeError for a value of a file that is of another kind."""
    for value in values:
        if not isinstance(value, kind):
            raise TypeError(f"{value!r} where {kind} is expected")


def _verdict(task: str, part: str | None, entries: Sequence[TaskScore], weak: Sequence[TaskScore]) -> str:
    what = task if part is None else f"{task} {part}"
    verdict = "not good at" if len(weak) == len(entries) else "only in part good at"
    return f"low_quality.{task}: This model is {verdict} {what}"


def _with_scores(task: str, entries: Sequence[TaskScore], weak: Sequence[TaskScore]) -> str:
    share = f"{len(weak)} of {len(entries)} kinds of text" if len(entries) > 1 else "the text it was tested on"
    named = ", ".join(map(str, weak[:NAMED])) + (f", and {len(weak) - NAMED} more" if len(weak) > NAMED else "")
    return (
        f"{_verdict(task, None, entries, weak)}: on {share} it was no better than a trivial baseline, or by no more "
        f"than chance explains: {named}."
    )
