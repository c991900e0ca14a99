"""`routelm prepare`: encode text files into token arrays."""

from pathlib import Path
from typing import Annotated

import typer

from server.commands.common.errors import errors_in_one_line


def prepare(
    data: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Directory of JSON Lines files.")],
    out: Annotated[Path, typer.Argument(help="Directory to write the arrays to.")],
    tokenizer: Annotated[
        Path | None, typer.Option(help="Directory with a tokenizer.json. (default: the bundled model's)")
    ] = None,
) -> None:
    """Encode texts for training. Drops duplicates, and rows that also occur in the validation files.

    `routelm train` does this itself. Run it alone to see the counts, or to encode on another machine.
    """
    from model.bundled_recipe.extra_sources import EXTRA_SOURCES
    from model.checkpoints.hub import BUNDLED
    from model.training.pipeline import ensure_prepared

    with errors_in_one_line():
        ensure_prepared(data, tokenizer or BUNDLED, out, typer.echo, EXTRA_SOURCES)
