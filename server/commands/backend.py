"""Loading a model for a command: a sign of life while it takes, and a sentence instead of a traceback."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from server.app import Backend
    from server.settings import Settings


def load_backend(settings: "Settings") -> "Callable[[], Backend]":
    """What starts the engine; exits with 2 where the checkpoint cannot be served."""
    from rich.console import Console

    console = Console(stderr=True)
    try:
        with console.status(f"loading {settings.model}"):
            from server.bootstrap import prepare_backend

            return prepare_backend(settings)
    except ValueError as error:
        typer.secho(str(error), fg=typer.colors.RED, err=True)
        raise typer.Exit(2) from None
