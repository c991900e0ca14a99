"""The output and error files of a batch, made of the results in its journal."""

import itertools

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

    Does the same again when it is called again, after a crash.
    """
    return (_write(journal, batch, files, succeeded=True), _write(journal, batch, files, succeeded=False))


def _write(journal: Journal, batch: Batch, files: FileStore, *, succeeded: bool) -> str | None:
    results = (result for result in journal.results() if result.succeeded is succeeded)
    first = next(results, None)
    if first is None:
        return None
    kind = "output" if succeeded else "error"
    description = FileDescription(batch.owner, f"{batch.id}_{kind}.jsonl", "batch_output", batch.output_seconds)
    upload = files.begin_output(f"file-{batch.id.removeprefix('batch_')}-{kind}")
    try:
        for result in itertools.chain([first], results):
            upload.write(result.output)
        return upload.commit(description).id
    except BaseException:
        upload.discard()
        raise
