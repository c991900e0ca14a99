"""The table of a study: a row per measure, a column per variant, mean over seeds and half the range."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

from benchmarks.routing_study.result import RunResult, read_result
from benchmarks.routing_study.study import RESULT_NAME, read_study
from benchmarks.routing_study.variants import VARIANTS
from model.evaluation.tables import table
from model.training.data.rows import task_of

TASKS = ("translate", "summarize", "analyze", "chat", "generate")
HALF = "0.5"  # of the training, where the saturation is looked at


@dataclass(frozen=True, slots=True)
class Figure:
    """A measure of a variant over its seeds."""

    mean: float
    half_range: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Figure":
        return cls(fmean(values), (max(values) - min(values)) / 2)

    def show(self, digits: int) -> str:
        spread = f" ± {self.half_range:,.{digits}f}" if self.half_range >= 0.5 * 10**-digits else ""
        return f"{self.mean:,.{digits}f}{spread}"


@dataclass(frozen=True, slots=True)
class Measure:
    """One row. `value` is None for a run that has no such thing, such as the router of a dense network."""

    title: str
    value: Callable[[RunResult], float | None]
    digits: int
    better: Literal["lower", "higher", "neither"] = "neither"


def bits_per_byte(run: RunResult) -> float:
    """Mean over the tasks, of the mean over each task's sources."""
    return fmean([value for task in TASKS if (value := task_bits(run, task)) is not None])


def task_bits(run: RunResult, task: str) -> float | None:
    values = [bits for name, bits in run.bits_per_byte.items() if task_of(name) == task]
    return fmean(values) if values else None


def read_runs(directory: Path) -> dict[str, list[RunResult]]:
    """The finished runs of a study by variant, variants in their order. ValueError where none is finished."""
    read_study(directory)
    found: dict[str, list[RunResult]] = {}
    for path in sorted(directory.glob(f"*/{RESULT_NAME}")):
        result = read_result(path.parent)
        found.setdefault(result.run.variant, []).append(result)
    if not found:
        raise ValueError(f"no run of {directory} is finished: go on with `routelm compare run {directory}`")
    return {name: found[name] for name in VARIANTS if name in found}


def study_table(directory: Path) -> str:
    """The Markdown table of a study, with a line on what it is of. The same files always give the same text."""
    study, runs = read_study(directory), read_runs(directory)
    seeds = max(map(len, runs.values()))
    first = next(iter(runs.values()))[0]
    caption = (
        f"Size {study.size}, {study.tokens:,} training tokens, {_number(seeds, 'seed')}: mean ± half the range. "
        f"Measured on {_number(len(first.bits_per_byte), 'validation source')}, speeds with "
        f"{_number(first.threads, 'thread')}; the best of each row is bold."
    )
    header = ["", *(VARIANTS[name].title for name in runs)]
    rows = [row for measure in _measures(runs) if (row := _row(measure, runs))]
    return f"{caption}\n\n{table(header, rows)}\n"


def _measures(runs: dict[str, list[RunResult]]) -> list[Measure]:
    majority = next(iter(runs.values()))[0].majority
    chance = f" (most frequent label: {fmean(list(majority.values())):.1f})" if majority else ""
    return [
        Measure("bits per byte, mean over tasks", bits_per_byte, 4, "lower"),
        *(Measure(f"bits per byte, {task}", _task_measure(task), 4, "lower") for task in TASKS),
        Measure(f"label accuracy, %{chance}", lambda run: _mean_of(run.accuracy), 1, "higher"),
        Measure("MaxVio", _over_layers(lambda layer: layer.max_violation), 2, "lower"),
        Measure("idle experts, of all", _idle_share, 3, "lower"),
        Measure("routing entropy, bits", _over_layers(lambda layer: layer.entropy), 2),
        Measure("I(token; expert), bits", _over_layers(lambda layer: layer.token_information), 2),
        Measure("I(task; expert), of 1", _over_layers(lambda layer: layer.task_information), 3),
        Measure("I(language; expert), of 1", _over_layers(lambda layer: layer.language_information), 3),
        Measure("router saturation at half the training", lambda run: run.agreement.get(HALF), 3),
        Measure("experts per token", _over_layers(lambda layer: layer.mean_k), 2),
        Measure("experts per token, in training", lambda run: run.training.mean_k or None, 2),
        Measure("parameters, million", lambda run: run.parameters / 1e6, 2),
        Measure("active parameters, million", lambda run: run.active_parameters / 1e6, 2),
        Measure("MFLOP per token", lambda run: run.flops_per_token / 1e6, 2),
        Measure("tokens/s, training", lambda run: run.training.tokens_per_second, 0, "higher"),
        Measure("tokens/s, decoding 8 rows", lambda run: run.serving_tokens_per_second, 0, "higher"),
    ]


def _row(measure: Measure, runs: dict[str, list[RunResult]]) -> list[str]:
    """Cells of one measure; none where no variant has it."""
    figures = [_figure(measure, of_variant) for of_variant in runs.values()]
    known = [round(figure.mean, measure.digits) for figure in figures if figure is not None]
    if not known:
        return []
    best = {"lower": min(known), "higher": max(known), "neither": None}[measure.better]
    cells = [
        "–" if figure is None else _cell(figure, measure.digits, bold=round(figure.mean, measure.digits) == best)
        for figure in figures
    ]
    return [measure.title, *cells]


def _figure(measure: Measure, runs: Sequence[RunResult]) -> Figure | None:
    values = [value for run in runs if (value := measure.value(run)) is not None]
    return Figure.of(values) if values else None


def _cell(figure: Figure, digits: int, *, bold: bool) -> str:
    shown = figure.show(digits)
    return f"**{shown}**" if bold else shown


def _task_measure(task: str) -> Callable[[RunResult], float | None]:
    return lambda run: task_bits(run, task)


def _over_layers(value: Callable[..., float]) -> Callable[[RunResult], float | None]:
    """The mean over routed layers."""
    return lambda run: fmean([value(layer) for layer in run.layers]) if run.layers else None


def _idle_share(run: RunResult) -> float | None:
    layers = run.layers
    return sum(layer.idle_experts for layer in layers) / sum(layer.experts for layer in layers) if layers else None


def _mean_of(values: dict[str, float]) -> float | None:
    return fmean(list(values.values())) if values else None


def _number(count: int, name: str) -> str:
    return f"{count} {name}{'s' if count != 1 else ''}"
