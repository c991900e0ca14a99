"""`routelm batch run`: answer a file of requests without a server."""

import asyncio
import filecmp
import shutil
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.commands.common.errors import CANNOT_BE_DONE, errors_in_one_line, failure
from server.commands.common.load_backend import load_backend
from server.commands.common.logs import configure_logging
from server.commands.common.options import read_settings
from server.errors import RequestError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from server.batches.directory import BatchDirectory
    from server.batches.types import Batch

REQUESTS_FAILED = 1  # exit code: some requests have an error for an answer
INTERRUPTED = 130  # exit code, as of a shell after Ctrl-C
UNBOUNDED = 2**60
WINDOW = 10 * 365 * 86_400  # seconds until what was not answered expires
POLL_SECONDS = 0.2

app = typer.Typer(help="Answer files of requests.", no_args_is_help=True)


@app.callback()
def batch() -> None:
    """Answer files of requests, in the form of OpenAI's batches."""


@app.command()
def run(
    input_file: Annotated[Path, typer.Argument(help="A line of JSON for each request: custom_id, method, url, body.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File of the answers, a line each, in that order.")],
    model: Annotated[str, typer.Option(help="A directory, a .gguf file, a hub id, or `bundled`.")] = "bundled",
    max_num_seqs: Annotated[int, typer.Option(min=1, max=4096, help="Requests at a time.")] = 32,
) -> None:
    """Answer a file of requests, as POST /v1/batches does, without a server.

    Lines may name different endpoints. After Ctrl-C, a crash or a full disk, the same command goes on; until the end,
    the answers are in the directory OUTPUT.batch. Exits with 1 if a request got an error, which OUTPUT has in the
    request's line.
    """
    configure_logging("warning")
    work = output.parent / f"{output.name}.batch"
    with errors_in_one_line(RequestError):
        ended, goes_on = _run(input_file, output, work, model, max_num_seqs)
    counts = ended.counts
    for error in ended.errors:
        place = [f"line {error.line}"] if error.line else []
        failure(": ".join([*place, *([error.param] if error.param else []), error.message]))
    if goes_on:
        code = CANNOT_BE_DONE if ended.errors else INTERRUPTED
        raise failure(f"Stopped after {counts.completed} of {counts.total}: the same command goes on.", code)
    if ended.errors:
        raise typer.Exit(CANNOT_BE_DONE)
    rest = f", {counts.failed} have errors" if counts.failed else ""
    typer.echo(f"{output}: {counts.completed} of {counts.total} requests were answered{rest}.")
    if counts.failed:
        raise typer.Exit(REQUESTS_FAILED)


def _run(input_file: Path, output: Path, work: Path, model: str, max_num_seqs: int) -> tuple["Batch", bool]:
    """Bring the batch in the directory `work` to its end, write `output`, and delete `work`.

    Returns the batch, and whether the same command goes on with it: it was interrupted, or the disk has failed.
    """
    from server.batches.directory import BatchDirectory
    from server.batches.types import BatchLimits
    from server.startup.app import create_app

    settings = read_settings(model=model, batch_max_num_seqs=max_num_seqs)
    settings = settings.model_copy(update={"api_key": None, "keys_file": None})  # keys are for clients of a server
    limits = BatchLimits(UNBOUNDED, UNBOUNDED, settings.max_body_bytes, max_requests=UNBOUNDED)
    _check_paths(input_file, output)  # before the model is loaded
    with closing(BatchDirectory(work, limits)) as directory:
        file_id = _stored_input(directory, input_file, work)
        application = create_app(settings, load_backend(settings), directory)
        ended = asyncio.run(_answer(application, directory, file_id))
        if ended.output_file_id is not None:
            _copy(directory.files.path(ended.output_file_id), output)
        goes_on = directory.batches.goes_on(ended.id)
    if not goes_on:
        shutil.rmtree(work)
    return ended, goes_on


def _check_paths(input_file: Path, output: Path) -> None:
    """Raises OSError if there is no input, and ValueError for an output that the answers must not replace."""
    input_file.stat()
    if output.is_dir():
        raise ValueError(f"{output} is a directory: give a file for the answers")
    if output.exists() and output.samefile(input_file):
        raise ValueError(f"{output} is the input: give another file for the answers")


def _stored_input(directory: "BatchDirectory", input_file: Path, work: Path) -> str:
    """Copy the input, so that it stays the same when the command goes on; raises ValueError if it has changed."""
    from server.batches.files import FileDescription

    stored = [file.id for file in directory.files.list("") if file.purpose == "batch"]
    if stored:
        if not filecmp.cmp(directory.files.path(stored[0]), input_file, shallow=False):
            raise ValueError(f"{work} was begun with another input than {input_file}: delete it to begin anew")
        return stored[0]
    upload = directory.files.begin()
    with input_file.open("rb") as source:
        shutil.copyfileobj(source, upload)
    return upload.commit(FileDescription("", input_file.name, "batch")).id


def _copy(source: Path, target: Path) -> None:
    """Both exist until the target is whole, so that a crash in between costs nothing."""
    from server.batches.disk import DurableFile

    with source.open("rb") as file, DurableFile(target) as copy:
        shutil.copyfileobj(file, copy)


async def _answer(application: "FastAPI", directory: "BatchDirectory", file_id: str) -> "Batch":
    """Run the batch, or go on with it, and show its progress. After Ctrl-C it is returned as far as it is."""
    from server.batches.store import BatchDescription

    async with application.router.lifespan_context(application):
        runner = application.state.batches
        earlier = directory.batches.list("")
        batch = earlier[0] if earlier else await runner.create(BatchDescription("", None, file_id, "", WINDOW))
        with suppress(asyncio.CancelledError), _progress_bar() as bar:
            waiting = asyncio.create_task(runner.wait(batch.id))
            while not waiting.done():
                await asyncio.wait((waiting,), timeout=POLL_SECONDS)
                counts = directory.batches.at(batch.id).counts
                bar.update(bar.task_ids[0], completed=counts.completed + counts.failed, total=counts.total or None)
    return directory.batches.at(batch.id)


def _progress_bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("answering"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    bar = Progress(*columns, console=Console(stderr=True))
    bar.add_task("answering", total=None)
    return bar
