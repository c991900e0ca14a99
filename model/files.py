"""Reading and writing JSON files, and replacing files atomically."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol


class File(Protocol):
    """A file to read. Every `Path` is one."""

    @property
    def name(self) -> str: ...
    def is_file(self) -> bool: ...
    def read_text(self, encoding: str | None = None) -> str: ...
    def read_bytes(self) -> bytes: ...


class Directory(Protocol):
    """A directory to read: a `Path`, or what looks like one, such as a GGUF file as the checkpoint it was made from."""

    @property
    def name(self) -> str: ...
    def iterdir(self) -> Iterable[File]: ...
    def __truediv__(self, name: str, /) -> File: ...


def replace_text(path: Path, text: str) -> None:
    """Replace the content of a file, completely or not at all."""
    partial = path.with_name(f"{path.name}.tmp")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def flush_to_disk(directory: Path) -> None:
    """Return once the files of a directory and their names would outlast a power cut."""
    for path in (*(file for file in directory.iterdir() if file.is_file()), directory):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def compact_json(value: Any, width: int = 200) -> str:
    """JSON with lists of numbers, and whatever else fits into `width` characters, on one line; NaN is refused."""
    return _compact(value, width, "") + "\n"


def _compact(value: Any, width: int, indent: str) -> str:
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    parts = list(value.values() if isinstance(value, dict) else value) if isinstance(value, dict | list | tuple) else []
    if len(line) <= width or all(isinstance(part, int | float) for part in parts):
        return line
    names = (
        [f"{json.dumps(name, ensure_ascii=False)}: " for name in value]
        if isinstance(value, dict)
        else [""] * len(parts)
    )
    deeper = indent + " "
    lines = [f"{deeper}{name}{_compact(part, width, deeper)}" for name, part in zip(names, parts, strict=True)]
    start, end = "{}" if isinstance(value, dict) else "[]"
    return "\n".join([start, ",\n".join(lines), f"{indent}{end}"])


def read_object(path: File) -> dict[str, Any]:
    """The object in a JSON file. ValueError with the file's name if it is not valid JSON or no object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} cannot be read: it has no JSON object")
    return content


def read_object_if_any(path: File) -> dict[str, Any]:
    """Like `read_object`; empty if there is no such file."""
    return read_object(path) if path.is_file() else {}
