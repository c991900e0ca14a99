"""`routelm version` and `routelm --version`."""

import platform

import typer

from server.commands.common.errors import errors_in_one_line
from server.version import package_version


def version() -> None:
    """Print the versions of RouteLM, Python and torch, and the instruction set of the kernels."""
    typer.echo(f"routelm {package_version('routelm')}")
    typer.echo(f"python {platform.python_version()}")
    typer.echo(f"torch {package_version('torch')}")
    with errors_in_one_line():
        typer.echo(f"kernels {_kernels()}")


def _kernels() -> str:
    from model import kernels
    from model.kernels.library import level_label

    level = kernels.instruction_set()
    return "plain" if level is None else level_label(level)


def print_and_exit(asked: bool) -> None:
    """What the option --version calls."""
    if asked:
        version()
        raise typer.Exit
