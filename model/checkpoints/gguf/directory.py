"""A GGUF file, or the parts of a split one, shown as the directory of the checkpoint it was made from."""

import json
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from model.checkpoints.gguf import tokenizer
from model.checkpoints.gguf.config import hf_config
from model.checkpoints.gguf.file import GgufFile
from model.checkpoints.gguf.metadata import Metadata
from model.checkpoints.gguf.tensors import GgufReader
from model.checkpoints.reader import CheckpointError

SUFFIX = ".gguf"
MAX_PARTS = 10_000
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


class GgufDirectory:
    """Has a config.json, tokenizer.json and so on, made of the metadata, and opens the weights as a `GgufReader`."""

    def __init__(self, path: Path) -> None:
        """`path`: the file, or any part of a split one. CheckpointError for a damaged file or a missing part."""
        self.path = path
        self._files = tuple(GgufFile(part) for part in _parts(path))
        _check_parts(self._files)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        match = _PART.fullmatch(self.path.name)
        return match[1] if match else self.path.name.removesuffix(SUFFIX)

    @property
    def stored_bytes(self) -> int:
        return sum(file.path.stat().st_size for file in self._files)

    def iterdir(self) -> Iterator["MadeFile"]:
        for name in self._makers:
            yield MadeFile(name, self._makers[name])

    def __truediv__(self, name: str) -> "MadeFile":
        return MadeFile(name, self._makers.get(name))

    def reader(self) -> GgufReader:
        return GgufReader(self._files, str(self._metadata.architecture), self._config)

    @cached_property
    def _metadata(self) -> Metadata:
        return Metadata(self._files)

    @cached_property
    def _config(self) -> dict[str, Any]:
        return hf_config(self._metadata)

    @property
    def _makers(self) -> dict[str, Callable[[], dict[str, Any]]]:
        entries = self._files[0].metadata
        makers: dict[str, Callable[[], dict[str, Any]]] = {"config.json": lambda: self._config}
        if "tokenizer.ggml.model" not in entries:
            return makers
        return makers | {
            "tokenizer.json": lambda: tokenizer.tokenizer_json(entries),
            "tokenizer_config.json": lambda: tokenizer.tokenizer_config(entries),
            "generation_config.json": lambda: tokenizer.generation_config(entries),
        }


class MadeFile:
    """A JSON file that is made when it is read. There is none without a maker."""

    def __init__(self, name: str, make: Callable[[], dict[str, Any]] | None) -> None:
        self.name, self._make = name, make

    def __str__(self) -> str:
        return self.name

    def is_file(self) -> bool:
        return self._make is not None

    def read_text(self, encoding: str | None = None) -> str:
        if self._make is None:
            raise FileNotFoundError(self.name)
        return json.dumps(self._make(), ensure_ascii=False)

    def read_bytes(self) -> bytes:
        return self.read_text().encode()


def gguf_file_in(directory: Path) -> Path | None:
    """The GGUF file in a directory that has one; of a split one the first part. CheckpointError for several."""
    models = [path for path in sorted(directory.glob(f"*{SUFFIX}")) if not path.name.startswith("mmproj")]
    firsts = [path for path in models if (match := _PART.fullmatch(path.name)) is None or int(match[2]) == 1]
    if len(firsts) > 1:
        names = ", ".join(path.name for path in firsts)
        raise CheckpointError(f"{directory} holds several GGUF files: name one of them: {names}")
    return firsts[0] if firsts else None


def part_names(name: str) -> list[str]:
    """The names of all parts of a split file, of which `name` is one; `name` alone for a whole file."""
    match = _PART.fullmatch(name)
    if match is None:
        return [name]
    count = int(match[3])
    if not 1 <= int(match[2]) <= count <= MAX_PARTS:
        raise CheckpointError(f"{name} is named like no part of a split file")
    return [f"{match[1]}-{part:05}-of-{count:05}{SUFFIX}" for part in range(1, count + 1)]


def _parts(path: Path) -> list[Path]:
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    parts = [path.with_name(name) for name in part_names(path.name)]
    for part in parts:
        if not part.is_file():
            raise CheckpointError(f"{part.name} is missing beside {path.name}: a split file needs all of its parts")
    return parts


def _check_parts(files: tuple[GgufFile, ...]) -> None:
    count = files[0].metadata.get("split.count", 1) or 1
    if not isinstance(count, int) or count != len(files):
        raise CheckpointError(
            f"{files[0].path.name} is one of {count} parts: keep the names name-00001-of-{count:05}.gguf and so on"
        )
    seen: dict[str, str] = {}
    for file in files:
        for name in file.tensors:
            if name in seen:
                raise CheckpointError(f"tensor {name} is both in {seen[name]} and in {file.path.name}")
            seen[name] = file.path.name
