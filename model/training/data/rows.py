"""The text files of a data directory: `<task>/<source>.<split>.jsonl[.gz]`, one JSON object a line."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]

ENDINGS = (".jsonl", ".jsonl.gz")


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
    """Yield the objects of a JSON Lines file, gzip-compressed where its name ends in .gz."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


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
