"""`routelm train-tokenizer`: train a byte-level BPE tokenizer."""

from pathlib import Path
from typing import Annotated

import typer

from server.commands.common.errors import errors_in_one_line


def train_tokenizer(
    data: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Directory of JSON Lines files.")],
    out: Annotated[Path, typer.Argument(help="Directory to write tokenizer.json and tokenizer_config.json to.")],
    vocab_size: Annotated[int, typer.Option(min=512, max=65_535, help="Number of tokens.")] = 7680,
) -> None:
    """Train a tokenizer on the texts of a data directory, balanced between languages."""
    from model.training.pipeline import ensure_tokenizer

    with errors_in_one_line():
        if (out / "tokenizer.json").exists():
            raise ValueError(f"{out} has a tokenizer.json: name a new directory")
        ensure_tokenizer(data, out, vocab_size, typer.echo)
    typer.echo(f"tokenizer in {out}")
