"""The prepared data on disk: every source cleaned and encoded once, as flat token arrays.

<out>/meta.json                            format, digests of the tokenizer and the files, and counts
<out>/<task>/<source>.<split>/tokens.npy   uint16, all examples one after another
                             /kinds.npy    uint8, what each token is part of: see examples.py
                             /offsets.npy  int64, example i is tokens[offsets[i]:offsets[i + 1]]
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from model.training.data.cleaning import Cleaner, Dropped
from model.training.data.examples import ANSWER, Example, ExampleEncoder, conversations
from model.training.data.label_sets import for_training
from model.training.data.rows import Row, SourceFile, find_all_sources, find_sources, read_source, task_of

FORMAT = 5  # of the directory and of what is put into it
ROWS_AT_ONCE = 4096
# In this order: an extra source may read the sources of earlier tasks.
_TASKS = ("generate", "summarize", "translate", "chat", "analyze")


@dataclass(slots=True)
class SourceCounts:
    """Counts of one source. `target_tokens` are those of answers and plain text."""

    rows: int = 0
    dropped: Dropped = field(default_factory=Dropped)
    too_long: int = 0  # drafts of examples, of which a row may give several
    examples: int = 0
    tokens: int = 0
    target_tokens: int = 0


@dataclass(frozen=True, slots=True)
class PreparedSource:
    """The examples of one source and split, as arrays that stay on disk until they are read."""

    name: str
    tokens: NDArray[np.uint16]
    kinds: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def length(self, index: int) -> int:
        return int(self.offsets[index + 1] - self.offsets[index])

    def example(self, index: int) -> Example:
        where = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return Example(self.tokens[where], self.kinds[where])

    def examples(self, index_I: NDArray[np.int64]) -> tuple[NDArray[np.uint16], NDArray[np.uint8], NDArray[np.int64]]:
        """Tokens and kinds of several examples, one after another, and the number of tokens of each."""
        first_I = self.offsets[index_I]
        sizes_I = self.offsets[index_I + 1] - first_I
        shift_I = first_I - (np.cumsum(sizes_I) - sizes_I)
        where_N = np.arange(sizes_I.sum()) + np.repeat(shift_I, sizes_I)
        return self.tokens[where_N], self.kinds[where_N], sizes_I


KeptRows = Mapping[str, Sequence[Row]]  # the training rows that were kept, by source


@dataclass(frozen=True, slots=True)
class ExtraSource:
    """A training source that stands in no file. It is made after the files of its task.

    `rows` is given the kept rows of those earlier sources for whose names `reads` is true.
    """

    name: str  # `<task>/<source>`
    rows: Callable[[KeptRows], Iterable[Row]]
    reads: Callable[[str], bool] = lambda source: False


Clean = Callable[[Sequence[Row]], tuple[list[Row], Dropped]]
OnSource = Callable[[str, SourceCounts], None]  # called with each source and split that is done, and its counts


def prepare(
    data_dir: Path,
    tokenizer: Tokenizer,
    out_dir: Path,
    *,
    extra_sources: Sequence[ExtraSource] = (),
    on_source: OnSource = lambda name, counts: None,
) -> dict[str, SourceCounts]:
    """Clean and encode every file of `data_dir` into `out_dir`; return the counts by `<task>/<source>.<split>`.

    What is dropped, and why: see cleaning.py. ValueError where there is no file of the format.
    """
    files, digests = find_all_sources(data_dir), file_digests(data_dir)
    _write_meta(out_dir, tokenizer="", files={}, counts={})  # marks the directory as ours before it is complete
    writer = _SourceWriter(ExampleEncoder(tokenizer), out_dir, on_source)
    kept: dict[str, list[Row]] = {}  # what the extra sources read
    for task in _TASKS:
        cleaner = Cleaner()
        for source in _of(files, task, "valid"):
            writer.write(f"{source.name}.valid", list(read_source(source)), cleaner.validation)
        for source in _of(files, task, "train"):
            rows = writer.write(f"{source.name}.train", list(read_source(source)), cleaner.training)
            if any(extra.reads(source.name) for extra in extra_sources):
                kept[source.name] = rows
        for extra in (extra for extra in extra_sources if task_of(extra.name) == task):
            read = {name: rows for name, rows in kept.items() if extra.reads(name)}
            writer.write(f"{extra.name}.train", list(extra.rows(read)), cleaner.training)
    _write_meta(out_dir, tokenizer_digest(tokenizer), digests, writer.counts)
    return writer.counts


def load_source(prepared_dir: Path, name: str, split: str) -> PreparedSource:
    """Open one source. ValueError where it was not prepared."""
    directory = prepared_dir / f"{name}.{split}"
    if not directory.is_dir():
        known = ", ".join(source_names(prepared_dir, split))
        raise ValueError(f"source {name!r} has no {split} part in {prepared_dir}: use one of {known}")
    arrays = (np.load(directory / f"{array}.npy", mmap_mode="r") for array in ("tokens", "kinds", "offsets"))
    return PreparedSource(name, *arrays)


def source_names(prepared_dir: Path, split: str) -> list[str]:
    """Return the names of the prepared sources that have examples in `split`."""
    meta = read_meta(prepared_dir)["sources"]
    endings = ((name.rpartition("."), counts) for name, counts in meta.items())
    return sorted(name for (name, _, ending), counts in endings if ending == split and counts["examples"] > 0)


def is_prepared(directory: Path, tokenizer: Tokenizer) -> bool:
    """Whether `directory` holds data that this program prepared with the same tokenizer."""
    if not (directory / "meta.json").exists():
        return False
    meta = read_meta(directory)
    return meta.get("format") == FORMAT and meta["tokenizer"] == tokenizer_digest(tokenizer)


def changed_files(prepared_dir: Path, data_dir: Path) -> list[str] | None:
    """The files of `data_dir` that are not those which were prepared, by name, with those that are missing.

    None where that cannot be told: the data was prepared before files were recorded, or `data_dir` has none.
    """
    prepared, found = read_meta(prepared_dir).get("files"), file_digests(data_dir)
    if not prepared or not found:
        return None
    return sorted(name for name in prepared.keys() | found if prepared.get(name) != found.get(name))


def file_digests(data_dir: Path) -> dict[str, str]:
    """Hashes of the source files by their names in `data_dir`. Times of files would change when they are copied."""
    paths = [source.path for split in ("valid", "train") for source in find_sources(data_dir, split)]
    return {path.relative_to(data_dir).as_posix(): _digest(path) for path in paths}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_meta(prepared_dir: Path) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads((prepared_dir / "meta.json").read_text(encoding="utf-8"))
    return meta


def _write_meta(directory: Path, tokenizer: str, files: dict[str, str], counts: dict[str, SourceCounts]) -> None:
    sources = {name: asdict(of_source) for name, of_source in counts.items()}
    directory.mkdir(parents=True, exist_ok=True)
    meta = {"format": FORMAT, "tokenizer": tokenizer, "files": files, "sources": sources}
    (directory / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """Return a hash of all that decides which ids a text becomes."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()


@dataclass(slots=True)
class _SourceWriter:
    """Cleans, encodes, writes and counts one source after another."""

    encoder: ExampleEncoder
    out_dir: Path
    on_source: OnSource
    counts: dict[str, SourceCounts] = field(default_factory=dict)

    def write(
        self, name: str, rows: list[Row], clean: Callable[[Sequence[Row]], tuple[list[Row], Dropped]]
    ) -> list[Row]:
        """Write what `clean` keeps of the rows; return that."""
        kept, dropped = clean(rows)
        drafts = list(self._encode(kept, varied=name.endswith(".train")))
        found = [example for example in drafts if example is not None]
        self.counts[name] = SourceCounts(
            rows=len(rows),
            dropped=dropped,
            too_long=len(drafts) - len(found),
            examples=len(found),
            tokens=sum(len(example.token_ids) for example in found),
            target_tokens=sum(int((example.kinds == ANSWER).sum()) for example in found),
        )
        _write(self.out_dir / name, found)
        self.on_source(name, self.counts[name])
        return kept

    def _encode(self, rows: list[Row], *, varied: bool) -> Iterator[Example | None]:
        """Yield the examples of the rows, None for each draft that does not fit."""
        left = for_training(rows) if varied else iter(rows)
        while chunk := list(islice(left, ROWS_AT_ONCE)):
            drafts = [draft for row in chunk for draft in conversations(row, with_instructions=varied)]
            for encoded in self.encoder.encode(drafts):
                yield from encoded or (None,)


def _of(files: Sequence[SourceFile], task: str, split: str) -> list[SourceFile]:
    return [source for source in files if (source.task, source.split) == (task, split)]


def _write(directory: Path, examples: list[Example]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    lengths = [len(example.token_ids) for example in examples]
    np.save(directory / "tokens.npy", np.concatenate([np.empty(0, np.uint16), *(e.token_ids for e in examples)]))
    np.save(directory / "kinds.npy", np.concatenate([np.empty(0, np.uint8), *(e.kinds for e in examples)]))
    np.save(directory / "offsets.npy", np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64))
