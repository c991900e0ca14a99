"""What one run of a study found, as a file: everything that the table and the pictures are made of, with the log."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmarks.routing_study.study import RESULT_NAME, SubRun
from model.files import replace_text
from model.training.log import LogLine


@dataclass(frozen=True, slots=True)
class LayerMeasures:
    """The router of one layer on validation text. Entropies and information are in bits."""

    mean_k: float  # experts a token
    max_violation: float
    dead_experts: int
    experts: int
    entropy: float  # of the mean distribution over experts
    token_information: float  # I(token; expert): that entropy less the mean one of a token
    task_information: float  # I(task; expert) as a share of the entropy of the tasks
    language_information: float
    task_shares: dict[str, list[float]]  # of each task's (token, expert) pairs, by expert


@dataclass(frozen=True, slots=True)
class RunResult:
    """One finished run. Bits per byte are by source, accuracies in percent."""

    run: SubRun
    tokens: int
    bits_per_byte: dict[str, float]
    accuracy: dict[str, float]
    majority: dict[str, float]
    layers: tuple[LayerMeasures, ...]  # none without a router
    agreement: dict[str, float]  # with the choices at a share of the training, such as "0.5"
    parameters: int
    active_parameters: float  # that take part in a token's products
    flops_per_token: float
    serving_tokens_per_second: float
    threads: int


def write_result(result: RunResult, run_dir: Path) -> None:
    replace_text(run_dir / RESULT_NAME, json.dumps(_rounded(asdict(result)), ensure_ascii=False, indent=1) + "\n")


def read_result(run_dir: Path) -> RunResult:
    fields = json.loads((run_dir / RESULT_NAME).read_text(encoding="utf-8"))
    layers = tuple(LayerMeasures(**layer) for layer in fields["layers"])
    return RunResult(**{**fields, "run": SubRun(**fields["run"]), "layers": layers})


@dataclass(frozen=True, slots=True)
class TrainingFacts:
    """What the log says of a whole run."""

    mean_k: float
    tokens_per_second: float  # median over the steps


def training_facts(lines: Sequence[LogLine]) -> TrainingFacts:
    """ValueError where there is no line."""
    if not lines:
        raise ValueError("the log is empty")
    mean_k = fmean(line.mean_k or 0.0 for line in lines)
    return TrainingFacts(mean_k, median(line.tokens_per_second for line in lines))


def six_digits(value: float) -> float:
    """What is kept of a number: more digits say nothing and fill the repository."""
    return float(f"{value:.6g}")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return six_digits(value)
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list | tuple) else value
