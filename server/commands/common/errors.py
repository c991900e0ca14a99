"""How a command fails: in one line, with an exit code, instead of a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

CANNOT_BE_DONE = 2


@contextmanager
def errors_in_one_line(*others: type[Exception]) -> Iterator[None]:
    """Turn what is wrong with a model, a file, data or an argument into one line on stderr and an exit code.

    OSError and ValueError say such things; `others` are those that do so in what is called here.
    """
    kinds: tuple[type[Exception], ...] = (OSError, ValueError, *others)
    try:
        yield
    except kinds as error:
        typer.secho(" ".join(str(error).split()), fg=typer.colors.RED, err=True)
        raise typer.Exit(CANNOT_BE_DONE) from None
