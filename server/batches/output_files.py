"""The output and error files of a batch, made of the results in its journal."""

import itertools
from collections.abc import Iterator

from server.batches.files import FileDescription, FileStore
from server.batches.journal import Journal, Result
from server.batches.request_lines import error_line
from server.batches.types import Batch

PAGE = 1000  # results that are written to the journal at a time


def close_open_requests(journal: Journal, code: str, message: str) -> None:
    """Give each request that has no result an error of that code, so that none is missing in the output."""
    while page := journal.open_requests(0, PAGE):
        journal.record([Result(at.line, False, error_line(at.custom_id, code, message)) for at in page])


def write_output_files(journal: Journal, batch: Batch, files: FileStore) -> tuple[str | None, str | None]:
    """Write what succeeded to one file and the rest to another, by line; return their ids, None for an empty one.

    A batch without an endpoint has one file for all. Does the same again when it is called again, after a crash.
    """
    if batch.endpoint is None:
        return _write(batch, files, "output", journal.results()), None
    done = (result for result in journal.results() if result.succeeded)
    failed = (result for result in journal.results() if not result.succeeded)
    return _write(batch, files, "output", done), _write(batch, files, "error", failed)


def _write(batch: Batch, files: FileStore, kind: str, results: Iterator[Result]) -> str | None:
    first = next(results, None)
    if first is None:
        return None
    description = FileDescription(batch.owner, f"{batch.id}_{kind}.jsonl", "batch_output", batch.output_seconds)
    upload = files.begin_output(f"file-{batch.id.removeprefix('batch_')}-{kind}")
    try:
        for result in itertools.chain([first], results):
            upload.write(result.output)
        return upload.commit(description).id
    except BaseException:
        upload.discard()
        raise
