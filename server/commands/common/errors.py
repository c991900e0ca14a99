"""How a command fails: with one line on stderr and an exit code, instead of a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

CANNOT_BE_DONE = 2  # exit code for what is wrong with the arguments, a file or a model


def failure(message: str, code: int = CANNOT_BE_DONE) -> typer.Exit:
    """Print the message; the caller raises what is returned."""
    typer.secho(message, fg=typer.colors.RED, err=True)
    return typer.Exit(code)


@contextmanager
def stopped_in_one_line() -> Iterator[None]:
    """Turn Ctrl-C, in work that is resumed, into one line on stderr that says how to go on, and exit code 130."""
    try:
        yield
    except KeyboardInterrupt as stopped:
        typer.echo(f"{str(stopped) or 'stopped'}; run the same command to go on", err=True)
        raise typer.Exit(130) from None


@contextmanager
def errors_in_one_line(*others: type[Exception]) -> Iterator[None]:
    """Turn OSError, ValueError and the exceptions in `others` into one line on stderr and exit code 2."""
    kinds: tuple[type[Exception], ...] = (OSError, ValueError, *others)
    try:
        yield
    except kinds as error:
        raise failure(" ".join(str(error).split())) from None
