"""Files that are whole at every moment, whenever the program is stopped."""

from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Write `text` in place of the file's content: all of it or nothing."""
    partial = path.with_name(f"{path.name}.tmp")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
