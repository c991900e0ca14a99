"""The text files of a data directory: `<task>/<source>.<split>.jsonl[.gz]`, one JSON object a line."""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short
from typing import Any

from model.text.special_tokens import LANGUAGES

Row = dict[str, Any]

ENDINGS = (".jsonl", ".jsonl.gz")
ROLES = ("system", "user", "assistant")
_TEXTS = {"translate": ("source", "target"), "summarize": ("document", "summary"), "analyze": ("text", "label")}


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of one source. `name` is `<task>/<source>`, such as "translate/tatoeba-en-zh"."""

    name: str
    split: str
    path: Path

    @property
    def task(self) -> str:
        return task_of(self.name)


def task_of(source: str) -> str:
    """The task of a source by the source's name: "translate" of "translate/tatoeba-en-zh"."""
    return source.partition("/")[0]


def find_sources(data_dir: Path, split: str) -> list[SourceFile]:
    """Return the files of `split` ("train" or "valid") by name, without those for non-commercial use ("-nc").

    ValueError where one source has two files.
    """
    sources: dict[str, SourceFile] = {}
    for path in sorted(path for ending in ENDINGS for path in data_dir.glob(f"*/*.{split}{ending}")):
        name = f"{path.parent.name}/{path.name.removesuffix('.gz').removesuffix(f'.{split}.jsonl')}"
        if name in sources:
            raise ValueError(
                f"{name} is in {data_dir} both as {sources[name].path.name} and as {path.name}: remove one"
            )
        if not name.endswith("-nc"):
            sources[name] = SourceFile(name, split, path)
    return list(sources.values())


def find_all_sources(data_dir: Path) -> list[SourceFile]:
    """Return the files of both splits, validation first. ValueError where there is no file of the format."""
    sources = [source for split in ("valid", "train") for source in find_sources(data_dir, split)]
    if not sources:
        raise ValueError(f"no <task>/<source>.train.jsonl in {data_dir}: see docs/training.md for the format")
    return sources


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the objects of a JSON Lines file, gzip-compressed where its name ends in .gz.

    ValueError names the line that is none.
    """
    return (row for _, row in _numbered_rows(path))


def read_source(source: SourceFile) -> Iterator[Row]:
    """Yield the rows of a data file. ValueError names the line that is not in the format of the file's task."""
    for number, row in _numbered_rows(source.path):
        try:
            _check(row, source.task)
        except ValueError as error:
            raise ValueError(f"{source.path}, line {number}: {error}") from None
        yield row


def write_training_source(data_dir: Path, name: str, rows: Iterable[Row]) -> tuple[Path, int]:
    """Write the training rows of `<task>/<source>` as they come; returns the file and their number."""
    path, count = data_dir / f"{name}.train.jsonl.gz", 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return path, count


def _numbered_rows(path: Path) -> Iterator[tuple[int, Row]]:
    number = 1
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            for line in lines:
                yield number, _object(str(line, "utf-8"))
                number += 1
    except (ValueError, RecursionError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}, line {number}: {error}") from error


def _object(line: str) -> Row:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError("a JSON object is expected")
    return row


def _check(row: Row, task: str) -> None:
    """ValueError unless the row has what its task needs."""
    if row.get("task") != task:
        raise ValueError(f"task is {short(row.get('task'))} in a file of the task {task!r}")
    if task == "chat":
        _check_messages(row.get("messages"))
    for key in () if task == "chat" else _TEXTS.get(task, ("text",)):
        _check_text(key, row.get(key))
    if task == "translate":
        _check_languages(row)
    if task == "analyze":
        _check_labels(row.get("label_set"))


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {short(value)}: a text is expected")
    value.encode()  # a lone surrogate is no text


def _check_messages(messages: object) -> None:
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise ValueError(f"messages is {short(messages)}: a list of objects is expected")
    for message in messages:
        if message.get("role") not in ROLES:
            raise ValueError(f"role is {short(message.get('role'))}: use one of {', '.join(ROLES)}")
        _check_text("content", message.get("content"))


def _check_languages(row: Row) -> None:
    for key in ("source_lang", "target_lang"):
        if row.get(key) not in LANGUAGES:
            raise ValueError(f"{key} is {short(row.get(key))}: use one of {', '.join(LANGUAGES)}")


def _check_labels(labels: object) -> None:
    if not isinstance(labels, list) or not labels:
        raise ValueError(f"label_set is {short(labels)}: a list of texts is expected")
    for label in labels:
        _check_text("a label", label)


def row_texts(row: Row) -> Iterator[tuple[str, str | None]]:
    """Yield each text of a row with its language, None where the row does not say it."""
    if row["task"] == "translate":
        yield row["source"], row["source_lang"]
        yield row["target"], row["target_lang"]
    elif row["task"] == "summarize":
        yield row["document"], None
        yield row["summary"], None
    elif row["task"] == "chat":
        for message in row["messages"]:
            yield message["content"], None
    else:
        yield row["text"], None
