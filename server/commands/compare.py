"""`routelm compare`: train every routing algorithm on the same tokens and make a table of the results.

The study is in benchmarks/, which is not part of the installed package.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from server.commands.common.errors import errors_in_one_line, failure, stopped_in_one_line

NOT_INSTALLED = "routelm compare needs the source checkout: the study (benchmarks/routing_study) is not in the package"

app = typer.Typer(help="Compare routing algorithms by training each of them.", no_args_is_help=True)


@app.command("run")
def run(
    directory: Annotated[Path, typer.Argument(help="Directory of the study; an interrupted one in it is resumed.")],
    data: Annotated[
        Path | None, typer.Option(help="Directory of JSON Lines files, see docs/training.md. (default: made-up text)")
    ] = None,
    tokens: Annotated[str, typer.Option(help="Training tokens of each run, such as 500k or 2M.")] = "2M",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each variant.")] = 2,
    size: Annotated[str, typer.Option(help="XS (5 million parameters) or S (18 million).")] = "XS",
    variant: Annotated[list[str] | None, typer.Option(help="Only this one; may be repeated. (default: all)")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Directory with a tokenizer.json. (default: the bundled model's)")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Micro-batches side by side. (default: a core each)")
    ] = None,
) -> None:
    """Train and measure every routing algorithm on the same tokens. Can be interrupted at any time and resumed.

    The whole study:  routelm compare run runs/routing --data DIR

    A look at it, in minutes:  routelm compare run runs/look --tokens 50k --seeds 1
    """
    with _study_needed():
        from benchmarks.routing_study.run import run_study
        from benchmarks.routing_study.study import Study, parse_tokens
        from benchmarks.routing_study.variants import VARIANTS
    from model.checkpoints.hub import BUNDLED

    with stopped_in_one_line(), errors_in_one_line():
        study = Study(parse_tokens(tokens), seeds, size, tuple(variant or VARIANTS))
        run_study(
            study,
            directory,
            data_dir=data,
            tokenizer_dir=tokenizer or BUNDLED,
            device=device,
            workers=workers,
            log=typer.echo,
        )
    table(directory)


@app.command("table")
def table(
    directory: Annotated[Path, typer.Argument(help="Directory of the study.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Directory for table, pictures and the results they are made of. (default: DIRECTORY)"),
    ] = None,
    into: Annotated[Path | None, typer.Option(help="Document whose marked table is replaced.")] = None,
) -> None:
    """Make the table and the plots from the results of all finished runs."""
    with _study_needed():
        from benchmarks.routing_study.document import publish

    with errors_in_one_line():
        written = publish(directory, out=out, into=into)
    typer.echo(written[0].read_text(encoding="utf-8"))
    typer.echo(f"wrote {', '.join(map(str, written))}")
    if not any(path.suffix == ".png" for path in written):
        typer.echo('no pictures: they need matplotlib, which comes with pip install "routelm[train]"', err=True)


@contextmanager
def _study_needed() -> Iterator[None]:
    """End with one line where benchmarks/ is missing. Any other module that is missing is an error as usual."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("benchmarks", "benchmarks.routing_study"):
            raise
        raise failure(NOT_INSTALLED) from None
