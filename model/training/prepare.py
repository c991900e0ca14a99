"""The prepared data on disk: every source cleaned and encoded once, as flat token arrays.

<out>/meta.json                            format, tokenizer digest and counts
<out>/<task>/<source>.<split>/tokens.npy   uint16, all examples one after another
                             /kinds.npy    uint8, what each token is part of: see examples.py
                             /offsets.npy  int64, example i is tokens[offsets[i]:offsets[i + 1]]
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from model.bundled_recipe.persona import persona_rows
from model.bundled_recipe.topic_augmentation import LENDERS, borrowed_topics
from model.training.cleaning import Cleaner, Dropped
from model.training.examples import ANSWER, Example, ExampleEncoder, conversations
from model.training.gap_sentences import gap_sentences
from model.training.label_sets import for_training
from model.training.rows import Row, SourceFile, find_all_sources, read_rows

FORMAT = 5  # of the directory and of what is put into it
ROWS_AT_ONCE = 4096
PERSONA = "chat/routelm-persona"
GAP_SENTENCES = {"summarize/gap-sentences-en": "en", "summarize/gap-sentences-zh": "zh"}
BORROWED_TOPICS = "analyze/borrowed-topics-en"
_TASKS = ("generate", "summarize", "translate", "chat", "analyze")  # gap sentences are taken from the first two
_NO_SENTENCES = "generate/*poetry*"


@dataclass(slots=True)
class SourceCounts:
    """What became of the rows of one source. `target_tokens` are those of answers and plain text."""

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


Told = Callable[[str, SourceCounts], None]  # the name of a source and split that is done, and its counts


def prepare(
    data_dir: Path, tokenizer: Tokenizer, out_dir: Path, told: Told = lambda name, counts: None
) -> dict[str, SourceCounts]:
    """Clean and encode every file of `data_dir` into `out_dir`; return the counts by `<task>/<source>.<split>`.

    What is dropped, and why: see cleaning.py. Beside the files' own sources there are some that are made here:
    PERSONA, GAP_SENTENCES and BORROWED_TOPICS, the latter two from the training rows that were kept. ValueError where
    there is no file of the format.
    """
    files = find_all_sources(data_dir)
    _write_meta(out_dir, tokenizer="", counts={})  # whose directory this is; prepared it is not yet
    workshop = _Workshop(ExampleEncoder(tokenizer), out_dir, told)
    prose: list[str] = []
    lent: dict[str, list[Row]] = {}
    for task in _TASKS:
        cleaner = Cleaner()
        for source in _of(files, task, "valid"):
            workshop.put(f"{source.name}.valid", list(read_rows(source.path)), cleaner.validation)
        for source in _of(files, task, "train"):
            kept = workshop.put(f"{source.name}.train", list(read_rows(source.path)), cleaner.training)
            prose += _prose(source.name, kept)
            if source.name in LENDERS:
                lent[source.name] = kept
        for name, rows in _made(task, prose, lent):
            workshop.put(f"{name}.train", rows, cleaner.training)
    _write_meta(out_dir, tokenizer_digest(tokenizer), workshop.counts)
    return workshop.counts


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


def read_meta(prepared_dir: Path) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads((prepared_dir / "meta.json").read_text(encoding="utf-8"))
    return meta


def _write_meta(directory: Path, tokenizer: str, counts: dict[str, SourceCounts]) -> None:
    sources = {name: asdict(of_source) for name, of_source in counts.items()}
    directory.mkdir(parents=True, exist_ok=True)
    meta = {"format": FORMAT, "tokenizer": tokenizer, "sources": sources}
    (directory / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """Return a hash of all that decides which ids a text becomes."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()


@dataclass(slots=True)
class _Workshop:
    """Cleans, encodes, writes and counts one source after another."""

    encoder: ExampleEncoder
    out_dir: Path
    told: Told
    counts: dict[str, SourceCounts] = field(default_factory=dict)

    def put(self, name: str, rows: list[Row], clean: Callable[[Sequence[Row]], tuple[list[Row], Dropped]]) -> list[Row]:
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
        self.told(name, self.counts[name])
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


def _prose(name: str, rows: list[Row]) -> list[str]:
    """The texts of a source that consist of sentences and may serve as documents to summarize."""
    if fnmatchcase(name, _NO_SENTENCES):
        return []
    return [row.get("document") or row["text"] for row in rows if row["task"] in ("generate", "summarize")]


def _made(task: str, prose: list[str], lent: dict[str, list[Row]]) -> Iterator[tuple[str, list[Row]]]:
    """Yield the sources of a task that stand in no file; `lent` are the rows of the LENDERS that came before."""
    if task == "chat":
        yield PERSONA, list(persona_rows())
    if task == "summarize":
        for name, language in GAP_SENTENCES.items():
            yield name, list(gap_sentences(prose, language))
    if task == "analyze":
        yield BORROWED_TOPICS, list(borrowed_topics(lent))


def _write(directory: Path, examples: list[Example]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    lengths = [len(example.token_ids) for example in examples]
    np.save(directory / "tokens.npy", np.concatenate([np.empty(0, np.uint16), *(e.token_ids for e in examples)]))
    np.save(directory / "kinds.npy", np.concatenate([np.empty(0, np.uint8), *(e.kinds for e in examples)]))
    np.save(directory / "offsets.npy", np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64))
