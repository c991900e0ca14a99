"""The log of a run: JSON Lines, one per step, with validation losses now and then."""

import json
import shutil
from pathlib import Path
from typing import Any

LOG_NAME = "log.jsonl"  # in the directory of a run, and thinned out in that of the finished model
LINES_TO_KEEP = 200


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; none where there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def forget_after(path: Path, step: int) -> None:
    """Drop the lines of steps that a resumed run will do again."""
    if path.exists():
        _write([line for line in read_log(path) if line["step"] <= step], path)


def thin_out(path: Path, copy: Path, keep: int = LINES_TO_KEEP) -> None:
    """Copy about `keep` lines, evenly spread: the last one, and all that have validation losses, are among them."""
    lines = read_log(path)
    every = max(len(lines) // keep, 1)
    _write([line for n, line in enumerate(reversed(lines)) if n % every == 0 or "valid" in line][::-1], copy)


def _write(lines: list[dict[str, Any]], path: Path) -> None:
    partial = path.with_suffix(".tmp")
    partial.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    shutil.move(partial, path)
