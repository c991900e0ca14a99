"""A training run from start to end: progress line, log, validation, plot, checkpoints, exported model."""

from collections import deque
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from rich.progress import Progress

from model.training.export import export
from model.training.loop.checkpoints import SaveClock
from model.training.loop.interruption import Interrupted, interruption
from model.training.loop.log import LogLine, RunLog, sample_lines
from model.training.loop.plot import plot_losses
from model.training.loop.progress import token_progress
from model.training.loop.trainer import Trainer


def run(
    trainer: Trainer,
    *,
    tokenizer_dir: Path,
    validate_on: list[str],
    checkpoint_minutes: float = 4.0,
    validate_every: int = 100,
) -> Path:
    """Train to the end of the recipe and write the model to `<run_dir>/model`; returns that directory.

    Ctrl-C and SIGTERM stop it after the step, which raises Interrupted and loses nothing. A run that is killed loses at
    most the time since the last checkpoint.
    """
    log, clock = RunLog(trainer.run_dir), SaveClock(60 * checkpoint_minutes)
    log.forget_after(trainer.state.step)
    with token_progress(speed_estimate_seconds=300) as bars:
        status = _Status(bars, trainer)
        with interruption(status.stopping) as stop:
            for line in trainer.steps():
                if trainer.finished or (line.step % validate_every == 0 and not stop.is_set()):
                    line = replace(line, valid=trainer.validate(validate_on))
                log.append(line)
                status.show(line)
                if stop.is_set() and not trainer.finished:
                    _save(trainer, log, tokenizer_dir)
                    raise Interrupted(f"stopped after {line.tokens:,} of {trainer.recipe.tokens:,} tokens")
                if clock.is_due():
                    _save(trainer, log, tokenizer_dir)
    return _save(trainer, log, tokenizer_dir)


def _save(trainer: Trainer, log: RunLog, tokenizer_dir: Path) -> Path:
    """Write the checkpoint, the plot and the model as it is now; returns the directory of the model."""
    trainer.save()
    plot_losses(log.lines(), trainer.run_dir / "loss.png")
    with trainer.finished_weights():
        model = export(trainer.network, tokenizer_dir, trainer.run_dir / "model")
    RunLog(model).write(sample_lines(log.lines()))
    return model


class _Status:
    """A bar with the last step's loss and the rate of the last twenty."""

    def __init__(self, bars: Progress, trainer: Trainer) -> None:
        self._bars = bars
        self._bar = bars.add_task("training", total=trainer.recipe.tokens, completed=trainer.state.tokens, status="")
        self._rates: deque[float] = deque(maxlen=20)

    def show(self, line: LogLine) -> None:
        self._rates.append(line.tokens_per_second)
        rate = f"{fmean(self._rates):,.0f} tokens/s"
        status = f"loss {line.loss:.3f}  {rate}  MaxVio {line.max_violation:.2f}"
        self._bars.update(self._bar, completed=line.tokens, status=status)

    def stopping(self) -> None:
        self._bars.update(self._bar, status="stopping after this step; Ctrl-C again stops at once, without saving")
