"""`routelm version` and `routelm --version`."""

import platform

import typer

from server.version import package_version


def version() -> None:
    """Print the versions of RouteLM, Python and torch."""
    typer.echo(f"routelm {package_version('routelm')}")
    typer.echo(f"python {platform.python_version()}")
    typer.echo(f"torch {package_version('torch')}")


def print_and_exit(asked: bool) -> None:
    """What the option --version calls."""
    if asked:
        version()
        raise typer.Exit
