"""A training run as a person sees it: a progress line, a log, validation, a plot, checkpoints, the finished model."""

import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from model.training.export import export
from model.training.log import LogLine, RunLog, thinned
from model.training.plot import plot_losses
from model.training.progress import token_progress
from model.training.trainer import Trainer


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
    log = RunLog(trainer.run_dir)
    log.forget_after(trainer.state.step)
    saved_at = time.monotonic()
    with token_progress(speed_estimate_seconds=300) as progress:
        task = progress.add_task("training", total=trainer.recipe.tokens, completed=trainer.state.tokens, status="")
        rates: deque[float] = deque(maxlen=20)
        for line in trainer.steps():
            if line.step % validate_every == 0 or trainer.finished:
                line = replace(line, valid=trainer.validate(validate_on))
            log.append(line)
            rates.append(line.tokens_per_second)
            progress.update(task, completed=line.tokens, status=_status(line, fmean(rates)))
            if time.monotonic() - saved_at > 60 * checkpoint_minutes:
                trainer.save()
                plot_losses(log.lines(), trainer.run_dir / "loss.png")
                saved_at = time.monotonic()
    trainer.save()
    plot_losses(log.lines(), trainer.run_dir / "loss.png")
    model = export(trainer.network, tokenizer_dir, trainer.run_dir / "model")
    RunLog(model).write(thinned(log.lines()))
    return model


def _status(line: LogLine, tokens_per_second: float) -> str:
    return f"loss {line.loss:.3f}  {tokens_per_second:,.0f} tokens/s  MaxVio {line.max_violation:.2f}"
