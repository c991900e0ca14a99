"""The table of a study inside a document: written between two markers, so that it can be written again and checked."""

import shutil
from pathlib import Path

from benchmarks.routing_study.plots import write_plots
from benchmarks.routing_study.study import RESULT_NAME, STUDY_NAME
from benchmarks.routing_study.table import read_runs, study_table
from model.files import replace_text

TABLE_NAME = "table.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
NOT_YET = "**There are no figures yet:** the study has not been run with this version.\n"


def publish(directory: Path, *, out: Path | None = None, into: Path | None = None) -> list[Path]:
    """Write a study's table and pictures from its results; returns the files that were written.

    They are put beside the runs, or into `out` with a copy of the results they are made of. With `into` the
    table also replaces the one in that document. ValueError where nothing is finished or the document has no place.
    """
    if out is not None:
        _copy_records(directory, out)
        directory = out
    text = study_table(directory)
    replace_text(directory / TABLE_NAME, text)
    written = [directory / TABLE_NAME, *write_plots(directory)]
    if into is not None:
        replace_text(into, with_table(into.read_text(encoding="utf-8"), text))
        written.append(into)
    return written


def published_table(directory: Path) -> str:
    """The table of a study, or a sentence that there is none."""
    return study_table(directory) if (directory / STUDY_NAME).exists() else NOT_YET


def with_table(document: str, text: str) -> str:
    """The document with `text` between its markers. ValueError where it lacks them."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document has no place for a table: put {BEGIN} and {END} on lines of their own")
    return f"{before}{BEGIN}\n\n{text}\n{END}{after}"


def _copy_records(directory: Path, out: Path) -> None:
    """All that the table and the pictures are made of."""
    runs = [run.run for of_variant in read_runs(directory).values() for run in of_variant]
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(directory / STUDY_NAME, out / STUDY_NAME)
    for run in runs:
        run.directory(out).mkdir(exist_ok=True)
        shutil.copyfile(run.directory(directory) / RESULT_NAME, run.directory(out) / RESULT_NAME)
