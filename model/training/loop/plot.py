"""The loss curve of a run as a picture."""

from collections.abc import Sequence
from pathlib import Path

from model.training.loop.log import LogLine


def plot_losses(lines: Sequence[LogLine], picture_path: Path) -> None:
    """Training loss (smoothed), validation losses and expert balance over tokens; does nothing without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    if not lines:
        return
    figure = Figure(figsize=(9, 6), layout="constrained")
    losses, balance = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    tokens = [line.tokens / 1e6 for line in lines]
    losses.plot(tokens, _smooth([line.loss for line in lines]), color="black", label="training")
    checked = [(line.tokens / 1e6, line.valid) for line in lines if line.valid is not None]
    for source in checked[-1][1] if checked else ():
        points = [(moment, valid[source]) for moment, valid in checked if source in valid]
        losses.plot(*zip(*points, strict=True), linewidth=1, label=source)
    losses.set_ylabel("loss, nats per token")
    losses.legend(fontsize=7, ncols=2)
    balance.plot(tokens, _smooth([line.max_violation for line in lines]), color="black")
    balance.set_ylabel("MaxVio")
    balance.set_xlabel("million tokens")
    figure.savefig(picture_path, dpi=110)


def _smooth(values: list[float], weight: float = 0.95) -> list[float]:
    """Exponential moving average, started at the first value."""
    smooth, current = [], values[0]
    for value in values:
        current = weight * current + (1 - weight) * value
        smooth.append(current)
    return smooth
