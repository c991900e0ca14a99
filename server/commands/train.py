"""`routelm train`: train a model from text, including tokenizer and data preparation."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from server.commands.common.errors import errors_in_one_line, stopped_in_one_line


class Dtype(StrEnum):
    """Number formats of the matrices while training."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


def train(
    out: Annotated[Path, typer.Argument(help="Directory of the run; an interrupted run in it is resumed.")],
    recipe: Annotated[
        str,
        typer.Option(
            help="tiny (two minutes), bundled (hours), then for its weights bundled-further, -chat, -longer, -wider, "
            "-polish, -taught, -talk, -names, -smalltalk, -spaces, -medicine, -health, -larger."
        ),
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
        int | None,
        typer.Option(min=1, help="Length of the run, including that of --start-from. (default: the recipe's)"),
    ] = None,
    start_from: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Run whose weights, log and token count the new run continues.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[
        Dtype | None,
        typer.Option(help="Of the matrices; a CPU without AVX-512 is faster with float32. (default: the recipe's)"),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Micro-batches side by side. (default: a core each)")
    ] = None,
) -> None:
    """Train a model. Can be interrupted at any time and resumed.

    Two minutes on a laptop, without any data:  routelm train runs/tiny

    Then talk to it:  routelm generate --model runs/tiny/model "Once upon a time"
    """
    from model.bundled_recipe.extra_sources import EXTRA_SOURCES
    from model.bundled_recipe.recipes import recipe_named
    from model.training.pipeline import train as train_model

    with stopped_in_one_line(), errors_in_one_line():
        chosen = recipe_named(recipe, tokens)
        if dtype is not None:
            chosen = replace(chosen, dtype=dtype.value)
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
