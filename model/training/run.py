"""A training run as a person sees it: a progress line, a log, validation, a plot, checkpoints, the finished model."""

import json
import time
from collections import deque
from dataclasses import asdict
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from model.training.export import export
from model.training.log import LOG_NAME, forget_after, thin_out
from model.training.plot import plot_losses
from model.training.trainer import StepReport, Trainer


def run(
    trainer: Trainer,
    *,
    tokenizer_dir: Path,
    validate_on: list[str],
    checkpoint_minutes: float = 4.0,
    validate_every: int = 100,
) -> Path:
    """Train to the end of the recipe and write the model to `<run_dir>/model`; returns that directory.

    Stopping it at any moment loses at most the time since the last checkpoint.
    """
    log_path = trainer.run_dir / LOG_NAME
    forget_after(log_path, trainer.step)
    saved_at = time.monotonic()
    with _progress() as progress, log_path.open("a", encoding="utf-8") as log:
        task = progress.add_task("training", total=trainer.recipe.tokens, completed=trainer.tokens, status="")
        rates: deque[float] = deque(maxlen=20)
        for report in trainer.steps():
            line = asdict(report)
            if report.step % validate_every == 0 or trainer.finished:
                line["valid"] = trainer.validate(validate_on)
            log.write(json.dumps(line) + "\n")
            log.flush()
            rates.append(report.tokens_per_second)
            progress.update(task, completed=report.tokens, status=_status(report, sum(rates) / len(rates)))
            if time.monotonic() - saved_at > 60 * checkpoint_minutes:
                trainer.save()
                plot_losses(log_path, trainer.run_dir / "loss.png")
                saved_at = time.monotonic()
    trainer.save()
    plot_losses(log_path, trainer.run_dir / "loss.png")
    model = export(trainer.network, tokenizer_dir, trainer.run_dir / "model")
    thin_out(log_path, model / LOG_NAME)
    return model


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} tokens"),
        TextColumn("{task.fields[status]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=True),
        refresh_per_second=1,
        speed_estimate_period=300,
    )


def _status(report: StepReport, tokens_per_second: float) -> str:
    return f"loss {report.loss:.3f}  {tokens_per_second:,.0f} tokens/s  MaxVio {report.max_violation:.2f}"
