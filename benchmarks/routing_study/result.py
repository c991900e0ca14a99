"""What one run of a study found, as a file: everything that the table and the pictures are made of."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmarks.routing_study.study import RESULT_NAME, SubRun
from model.files import compact_json, replace_text
from model.training.loop.log import LogLine

CURVE_POINTS = 100


@dataclass(frozen=True, slots=True)
class LayerMeasures:
    """The router of one layer on validation text. Entropies and information are in bits."""

    mean_k: float  # experts a token
    max_violation: float
    idle_experts: int
    experts: int
    entropy: float  # of the mean distribution over experts
    token_information: float  # I(token; expert): that entropy less the mean one of a token
    task_information: float  # I(task; expert) as a share of the entropy of the tasks
    language_information: float
    task_shares: dict[str, list[float]]  # of each task's (token, expert) pairs, by expert


@dataclass(frozen=True, slots=True)
class TrainingSummary:
    """A training run without its log. The loss curve has a point for every CURVE_POINTS-th part of the steps."""

    mean_k: float
    tokens_per_second: float  # median over the steps
    curve_tokens: list[int]
    curve_loss: list[float]  # nats per token, mean since the point before

    @classmethod
    def of(cls, lines: Sequence[LogLine]) -> "TrainingSummary":
        """ValueError where there is no line."""
        if not lines:
            raise ValueError("the log is empty")
        every = math.ceil(len(lines) / CURVE_POINTS)
        parts = [lines[start : start + every] for start in range(0, len(lines), every)]
        return cls(
            mean_k=fmean(line.mean_k or 0.0 for line in lines),
            tokens_per_second=median(line.tokens_per_second for line in lines),
            curve_tokens=[part[-1].tokens for part in parts],
            curve_loss=[fmean(line.loss for line in part) for part in parts],
        )


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
    training: TrainingSummary


def write_result(result: RunResult, run_dir: Path) -> None:
    replace_text(run_dir / RESULT_NAME, compact_json(_rounded(asdict(result))))


def read_result(run_dir: Path) -> RunResult:
    fields = json.loads((run_dir / RESULT_NAME).read_text(encoding="utf-8"))
    layers = tuple(LayerMeasures(**layer) for layer in fields["layers"])
    run, training = SubRun(**fields["run"]), TrainingSummary(**fields["training"])
    return RunResult(**{**fields, "run": run, "layers": layers, "training": training})


def six_digits(value: float) -> float:
    """What is kept of a number: more digits say nothing and fill the repository."""
    return float(f"{value:.6g}")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return six_digits(value)
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list | tuple) else value
