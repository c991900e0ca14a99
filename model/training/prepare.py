"""The prepared data on disk: every source file encoded once, as flat token arrays.

<out>/meta.json                            tokenizer digest and counts
<out>/<task>/<source>.<split>/tokens.npy   uint16, all examples one after another
                             /targets.npy  uint8, 1 where the token is part of an answer
                             /offsets.npy  int64, example i is tokens[offsets[i]:offsets[i + 1]]
"""

import hashlib
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from model.training.examples import Example, ExampleEncoder, conversations
from model.training.rows import Row, SourceFile, find_sources, read_rows

ROWS_AT_ONCE = 4096
_NOT_WORD = re.compile(r"[\W_]+")


@dataclass(slots=True)
class SourceCounts:
    """What became of the rows of one file."""

    rows: int = 0
    duplicates: int = 0
    in_validation: int = 0
    too_long: int = 0
    examples: int = 0
    tokens: int = 0
    target_tokens: int = 0


@dataclass(frozen=True, slots=True)
class PreparedSource:
    """The examples of one source and split, as arrays that stay on disk until they are read."""

    name: str
    tokens: NDArray[np.uint16]
    targets: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def length(self, index: int) -> int:
        return int(self.offsets[index + 1] - self.offsets[index])

    def example(self, index: int) -> Example:
        where = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return Example(self.tokens[where], self.targets[where])


@dataclass(slots=True)
class _Seen:
    """Texts met so far, by task: what a later row must not repeat."""

    rows: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    validation: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))


def prepare(
    data_dir: Path,
    tokenizer: Tokenizer,
    out_dir: Path,
    progress: Callable[[SourceFile, SourceCounts], None] = lambda source, counts: None,
) -> dict[str, SourceCounts]:
    """Encode every file of `data_dir` into `out_dir`; return the counts by `<task>/<source>.<split>`.

    Exact duplicates inside a task are dropped, and training rows of which a text equals a validation text of the same
    task (without regard to case, spaces and punctuation). `progress` is told of every file that is done.
    """
    encoder, seen, counts = ExampleEncoder(tokenizer), _Seen(), {}
    for split in ("valid", "train"):
        for source in find_sources(data_dir, split):
            found = counts[f"{source.name}.{split}"] = _prepare_source(source, encoder, seen, out_dir)
            progress(source, found)
    meta = {"tokenizer": tokenizer_digest(tokenizer), "sources": {name: asdict(c) for name, c in counts.items()}}
    (out_dir / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    return counts


def load_source(prepared_dir: Path, name: str, split: str) -> PreparedSource:
    """Open one source. ValueError where it was not prepared."""
    directory = prepared_dir / f"{name}.{split}"
    if not directory.is_dir():
        known = ", ".join(source_names(prepared_dir, split))
        raise ValueError(f"source {name!r} has no {split} part in {prepared_dir}: use one of {known}")
    arrays = (np.load(directory / f"{array}.npy", mmap_mode="r") for array in ("tokens", "targets", "offsets"))
    return PreparedSource(name, *arrays)


def source_names(prepared_dir: Path, split: str) -> list[str]:
    """Return the names of the prepared sources that have examples in `split`."""
    meta = read_meta(prepared_dir)["sources"]
    endings = ((name.rpartition("."), counts) for name, counts in meta.items())
    return sorted(name for (name, _, ending), counts in endings if ending == split and counts["examples"] > 0)


def read_meta(prepared_dir: Path) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads((prepared_dir / "meta.json").read_text(encoding="utf-8"))
    return meta


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """Return a hash of all that decides which ids a text becomes."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()


def _prepare_source(source: SourceFile, encoder: ExampleEncoder, seen: _Seen, out_dir: Path) -> SourceCounts:
    counts = SourceCounts()
    rows = _kept_rows(source, seen, counts)
    examples: list[Example] = []
    while chunk := list(islice(rows, ROWS_AT_ONCE)):
        drafts = [draft for row in chunk for draft in conversations(row, with_instructions=source.split == "train")]
        for encoded in encoder.encode(drafts):
            counts.too_long += not encoded
            examples += encoded
    _write(out_dir / f"{source.name}.{source.split}", examples)
    counts.examples = len(examples)
    counts.tokens = sum(len(example.token_ids) for example in examples)
    counts.target_tokens = sum(int(example.is_target.sum()) for example in examples)
    return counts


def _kept_rows(source: SourceFile, seen: _Seen, counts: SourceCounts) -> Iterator[Row]:
    rows, validation = seen.rows[source.task], seen.validation[source.task]
    for row in read_rows(source.path):
        counts.rows += 1
        texts = {hash(normalized) for text in _telling_texts(row) if (normalized := _normalize(text))}
        identity = hash(json.dumps(row, sort_keys=True))
        if identity in rows:
            counts.duplicates += 1
        elif source.split == "train" and not texts.isdisjoint(validation):
            counts.in_validation += 1
        else:
            rows.add(identity)
            if source.split == "valid":
                validation |= texts
            yield row


def _telling_texts(row: Row) -> Iterator[str]:
    """Yield the texts that no training row may share with a validation row."""
    if row["task"] == "translate":
        yield from (row["source"], row["target"])
    elif row["task"] == "summarize":
        yield from (row["document"], row["summary"])
    elif row["task"] == "chat":
        yield "\n".join(message["content"] for message in row["messages"][:-1])
    else:
        yield row["text"]


def _normalize(text: str) -> str:
    return _NOT_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def _write(directory: Path, examples: list[Example]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    lengths = [len(example.token_ids) for example in examples]
    np.save(directory / "tokens.npy", np.concatenate([np.empty(0, np.uint16), *(e.token_ids for e in examples)]))
    np.save(directory / "targets.npy", np.concatenate([np.empty(0, np.uint8), *(e.is_target for e in examples)]))
    np.save(directory / "offsets.npy", np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64))
