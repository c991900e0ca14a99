"""Facts about a training run, read from its log."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from model.training.loop.log import LOG_NAME, LogLine, RunLog

CURVE_POINTS = 12
LAST_STEPS = 50  # averaged for the final training loss


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Training loss of one part of the run, and the mean validation loss, if it was measured there."""

    tokens: int
    loss: float
    valid: float | None


@dataclass(frozen=True, slots=True)
class TrainingFacts:
    """A run as a whole. Losses are nats per token; validation losses count answers only, by source."""

    steps: int
    tokens: int
    hours: float  # of training steps alone
    tokens_per_second: float
    final_loss: float
    final_max_violation: float
    validation: Mapping[str, float]
    curve: tuple[CurvePoint, ...]


def read_training_facts(run_dir: Path) -> TrainingFacts:
    """Read `log.jsonl` of a run directory. ValueError where there is none, or nothing in it."""
    log = RunLog(run_dir)
    if not log.path.is_file():
        raise ValueError(f"{run_dir} has no {LOG_NAME}: give the directory of a training run")
    lines = log.lines()
    if not lines:
        raise ValueError(f"{log.path} is empty: the run has not done a step yet")
    seconds = _seconds(lines)
    checked = [line.valid for line in lines if line.valid is not None]
    return TrainingFacts(
        steps=lines[-1].step,
        tokens=lines[-1].tokens,
        hours=seconds / 3600,
        tokens_per_second=lines[-1].tokens / seconds,
        final_loss=fmean(line.loss for line in lines[-LAST_STEPS:]),
        final_max_violation=fmean(line.max_violation for line in lines[-LAST_STEPS:]),
        validation=checked[-1] if checked else {},
        curve=_curve(lines),
    )


def _seconds(lines: Sequence[LogLine]) -> float:
    before, seconds = 0, 0.0
    for line in lines:
        seconds += (line.tokens - before) / line.tokens_per_second
        before = line.tokens
    return seconds


def _curve(lines: Sequence[LogLine]) -> tuple[CurvePoint, ...]:
    """The run in pieces of equal numbers of tokens, each with its mean loss and its last validation."""
    pieces: dict[int, list[LogLine]] = {}
    for line in lines:
        pieces.setdefault((line.tokens - 1) * CURVE_POINTS // lines[-1].tokens, []).append(line)
    return tuple(_point(piece) for piece in pieces.values())


def _point(lines: Sequence[LogLine]) -> CurvePoint:
    checked = [line.valid for line in lines if line.valid]
    valid = fmean(checked[-1].values()) if checked else None
    return CurvePoint(lines[-1].tokens, fmean(line.loss for line in lines), valid)
