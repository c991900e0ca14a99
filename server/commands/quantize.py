"""`routelm quantize`: write a quantized copy of a checkpoint."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.commands.common.errors import errors_in_one_line

if TYPE_CHECKING:
    from model.files import Directory

DTYPES = ("bfloat16", "float32")


def quantize(
    source: Annotated[Path, typer.Argument(exists=True, help="Checkpoint directory or GGUF file to read.")],
    target: Annotated[Path, typer.Argument(help="Directory to write; must be empty or not exist.")],
    scheme: Annotated[str, typer.Option(help="int8 or int4.")] = "int4",
    dtype: Annotated[str, typer.Option(help="Type of what is not quantized: bfloat16 or float32.")] = "bfloat16",
) -> None:
    """Write a checkpoint with quantized matrices. It loads in seconds and answers like `serve --quantize`.

    routelm quantize DIR DIR-int4 --scheme int4

    The source is read tensor by tensor, so it may be larger than this machine's memory.
    """
    with errors_in_one_line():
        import torch

        from model.checkpoints.hub import local_checkpoint
        from model.loading.quantize_checkpoint import quantize_checkpoint
        from model.quantization import SCHEMES

        if scheme not in SCHEMES:
            raise ValueError(f"--scheme is {scheme!r}: {' or '.join(SCHEMES)} is possible")
        if dtype not in DTYPES:
            raise ValueError(f"--dtype is {dtype!r}: {' or '.join(DTYPES)} is possible")
        directory = local_checkpoint(source)
        with _bar() as update:
            quantize_checkpoint(directory, target, SCHEMES[scheme], getattr(torch, dtype), update)
        before, after = (_weights_bytes(checkpoint) / 2**30 for checkpoint in (directory, target))
    typer.echo(f"{target}: {after:.2f} GiB of weights, from {before:.2f} GiB")


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    """Yield a callback for a progress bar, which is shown on a terminal only."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda read, total: bar.update(task, completed=read, total=total)


def _weights_bytes(checkpoint: "Directory") -> int:
    from model.checkpoints.safetensors_files import open_checkpoint

    reader = open_checkpoint(checkpoint)
    return sum(reader.header(name).stored_bytes for name in reader.names())
