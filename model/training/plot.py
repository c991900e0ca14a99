"""The loss curve of a run as a picture."""

from pathlib import Path

from model.training.log import read_log


def plot_losses(log_path: Path, picture_path: Path) -> None:
    """Training loss (smoothed), validation losses and expert balance over tokens; does nothing without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    lines = read_log(log_path)
    if not lines:
        return
    figure = Figure(figsize=(9, 6), layout="constrained")
    losses, balance = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    tokens = [line["tokens"] / 1e6 for line in lines]
    losses.plot(tokens, _smooth([line["loss"] for line in lines]), color="black", label="training")
    checked = [line for line in lines if "valid" in line]
    for source in checked[-1]["valid"] if checked else []:
        points = [(line["tokens"] / 1e6, line["valid"][source]) for line in checked if source in line["valid"]]
        losses.plot(*zip(*points, strict=True), linewidth=1, label=source)
    losses.set_ylabel("loss, nats per token")
    losses.legend(fontsize=7, ncols=2)
    balance.plot(tokens, _smooth([line["max_violation"] for line in lines]), color="black")
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
