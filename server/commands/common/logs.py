"""Log lines on stderr."""

import logging
import sys
from typing import TextIO

LOG_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
QUIET_LOGGERS = ("uvicorn.error",)  # at level info it repeats what we log: start, address, shutdown


class StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to `sys.stderr` as it is at that moment: a progress bar replaces it, to print lines above itself."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def configure_logging(level: str) -> None:
    """Log to stderr, with the lines of all libraries in one format. Called once by a command."""
    logging.basicConfig(
        level=level.upper(),
        format=LOG_FORMAT,
        datefmt="%Y-%m-%dT%H:%M:%S%z",
        handlers=[StderrHandler()],
        force=True,
    )
    if level == "info":
        for name in QUIET_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
