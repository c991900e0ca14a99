"""`routelm train`: from text to a model, with everything in between."""

from pathlib import Path
from typing import Annotated

import typer

from server.commands.common.errors import errors_in_one_line


def train(
    out: Annotated[Path, typer.Argument(help="Directory of the run; an interrupted run in it goes on.")],
    recipe: Annotated[
        str,
        typer.Option(help="tiny (two minutes), bundled (the model that ships, hours), bundled-further, bundled-chat."),
    ] = "tiny",
    data: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Directory of JSON Lines files, see docs/training.md. (default: made-up text)",
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Directory with a tokenizer.json. (default: trained on the data)")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Length of the run, with what it started from. (default: the recipe's)")
    ] = None,
    start_from: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Another run: a new one begins with its weights, log and count."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Micro-batches side by side. (default: a core each)")
    ] = None,
) -> None:
    """Train a model: forward, loss, backward, gradient descent. Stop and start it at will.

    Two minutes on a laptop, without any data:  routelm train runs/tiny

    Then talk to it:  routelm generate --model runs/tiny/model "Once upon a time"
    """
    from model.bundled_recipe.extra_sources import EXTRA_SOURCES
    from model.bundled_recipe.recipes import recipe_named
    from model.training.pipeline import train as train_model

    with errors_in_one_line():
        chosen = recipe_named(recipe, tokens)
        model = train_model(
            chosen,
            out,
            data_dir=data,
            tokenizer_dir=tokenizer,
            device=device,
            workers=workers,
            start_from=start_from,
            extra_sources=EXTRA_SOURCES,
            log=typer.echo,
        )
    plot = out / "loss.png"
    typer.echo(f"model in {model}, log in {out}/log.jsonl" + (f", curve in {plot}" if plot.exists() else ""))
