"""Reading JSON files of a checkpoint, and replacing files atomically."""

import json
from pathlib import Path
from typing import Any


def replace_text(path: Path, text: str) -> None:
    """Write `text` in place of the file's content: all of it or nothing."""
    partial = path.with_name(f"{path.name}.tmp")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. ValueError, naming the file, where it holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no UTF-8
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} cannot be read: it holds no JSON object")
    return content


def read_object_if_any(path: Path) -> dict[str, Any]:
    """The same; empty where there is no such file."""
    return read_object(path) if path.is_file() else {}
