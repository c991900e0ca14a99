"""`routelm average`: the mean of the weights of several models."""

from pathlib import Path
from typing import Annotated

import typer

from server.commands.common.errors import errors_in_one_line


def average(
    out: Annotated[Path, typer.Argument(help="Directory for the new model.")],
    models: Annotated[
        list[Path], typer.Argument(help="Two or more finished models; one that is named twice counts twice.")
    ],
) -> None:
    """Write the mean of the weights of related models: checkpoints of one run, or models trained from one another.

    routelm average runs/mean runs/first/model runs/second/model

    Compare it with the originals before you use it:  routelm evaluate runs/mean --data DIR
    """
    from model.training.export import average as average_models

    with errors_in_one_line():
        typer.echo(f"model in {average_models(models, out)}")
