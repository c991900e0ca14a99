"""Load a model for a command: show progress meanwhile, and end with one line if the checkpoint cannot be served."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from server.commands.common.errors import errors_in_one_line

if TYPE_CHECKING:
    from rich.console import Console

    from server.settings import Settings
    from server.startup.app import Backend

SECONDS_BETWEEN_LOG_LINES = 10.0

ProgressCallback = Callable[[int, int], None]  # called with the bytes read so far, and all bytes

logger = logging.getLogger(__name__)


def load_backend(settings: "Settings", *, measure: bool = True) -> "Callable[[], Backend]":
    """Load the model. Returns a function that starts the engine; exits with code 2 if the model cannot be served.

    `measure` as in `prepare_backend`.
    """
    with errors_in_one_line(), loading_progress(_terminal(), settings.model) as progress:
        from server.startup.backend import prepare_backend

        return prepare_backend(settings, progress, measure=measure)


def _terminal() -> "Console | None":
    """stderr, if it is a terminal. A server that logs to a file needs no rich, which takes 20 ms to import."""
    if sys.stderr is None or not sys.stderr.isatty():  # None: closed by whoever started the process
        return None
    from rich.console import Console

    return Console(stderr=True)


@contextmanager
def loading_progress(terminal: "Console | None", model: str) -> Iterator[ProgressCallback]:
    """Yield a callback that shows what has been read: a bar on a terminal, otherwise a log line every ten seconds."""
    if terminal is None:
        yield _log_lines(model)
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from model.checkpoints.hub import is_hub_id

    columns = BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn()
    bar = Progress(TextColumn("loading {task.description}"), *columns, console=terminal, transient=True)
    task = bar.add_task(model, total=None)

    def update(read: int, total: int) -> None:
        bar.start()
        bar.update(task, completed=read, total=total)

    if not is_hub_id(model):  # a download from the hub shows bars of its own
        bar.start()
    try:
        yield update
    finally:
        bar.stop()


def _log_lines(model: str) -> ProgressCallback:
    from model.loading.memory_estimate import gib

    last_line = time.monotonic()

    def update(read: int, total: int) -> None:
        nonlocal last_line
        if time.monotonic() - last_line >= SECONDS_BETWEEN_LOG_LINES:
            last_line = time.monotonic()
            logger.info("loading %s: %s of %s", model, gib(read), gib(total))

    return update
