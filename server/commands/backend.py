"""Loading a model for a command: a sign of life while it takes, and a sentence instead of a traceback."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from server.commands.failing import failing_in_one_line

if TYPE_CHECKING:
    from rich.console import Console

    from server.settings import Settings
    from server.startup.app import Backend

SECONDS_BETWEEN_LINES = 10.0

logger = logging.getLogger(__name__)


def load_backend(settings: "Settings") -> "Callable[[], Backend]":
    """What starts the engine; exits with 2, after one line that says why, where the checkpoint cannot be served."""
    from rich.console import Console

    with failing_in_one_line(), told(Console(stderr=True), settings.model) as progress:
        from server.startup.backend import prepare_backend

        return prepare_backend(settings, progress)


@contextmanager
def told(console: "Console", model: str) -> Iterator[Callable[[int, int], None]]:
    """Tell how much has been read: a bar on a terminal, now and then a line in a log."""
    if not console.is_terminal:
        yield _lines(model)
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from model.checkpoints.hub import is_hub_id

    columns = BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn()
    bar = Progress(TextColumn("loading {task.description}"), *columns, console=console, transient=True)
    task = bar.add_task(model, total=None)

    def update(read: int, total: int) -> None:
        bar.start()
        bar.update(task, completed=read, total=total)

    if not is_hub_id(model):  # whose download has bars of its own
        bar.start()
    try:
        yield update
    finally:
        bar.stop()


def _lines(model: str) -> Callable[[int, int], None]:
    told = time.monotonic()

    def update(read: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told >= SECONDS_BETWEEN_LINES:
            told = time.monotonic()
            logger.info("loading %s: %.1f of %.1f GiB", model, read / 2**30, total / 2**30)

    return update
