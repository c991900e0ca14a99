"""How far training is, on the terminal."""

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def token_progress(speed_estimate_seconds: float) -> Progress:
    """Bars that count tokens and end with their task's `status`; the time left follows from the last seconds' speed."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} tokens"),
        TextColumn("{task.fields[status]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=True),
        refresh_per_second=1,
        speed_estimate_period=speed_estimate_seconds,
    )
