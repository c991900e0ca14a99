"""Cleaning of training rows: duplicates, near duplicates, and rows that overlap with validation rows are dropped.

- Exact duplicates inside a task are dropped.
- A training row is dropped where one of its texts equals a validation text of the same task, without regard to case,
  spaces and punctuation.
- Of training rows of one source that are nearly the same (Jaccard similarity of runs of three at least NEAR_DUPLICATE)
  the first is kept. For a text of seven words this means the same words; for a page, all but a few.
- A training row is dropped where one of its texts shares 8 words (13 characters of Chinese) in a row with a validation
  text of the same task. Only content counts, not label sets and instructions; of a translation both sides; of a chat
  every message. A run that more than BOILERPLATE rows of one source contain is ignored: it is a common phrase
  ("Is there anything else I can help you with?", "Once upon a time, there was a little girl named Lily") that the model
  sees in other rows anyway. A passage of a validation text occurs in few rows, since copies are dropped first; it may
  occur in more than one, since a sentence may have several translations.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from model.training.data.rows import Row
from model.training.data.shingles import (
    Hashes,
    Owners,
    Vocabulary,
    band_keys,
    is_chinese,
    jaccard,
    min_hashes,
    normalize,
    shingles,
)

WORDS_IN_A_ROW = 8
CHARACTERS_IN_A_ROW = 13
BOILERPLATE = 3
NEAR_DUPLICATE = 0.85
_SHINGLE = 3
_BANDS, _BAND_SIZE = 5, 4  # of pairs with a similarity of 0.85 (0.95), 97 % (100 %) share a band
_WORTH_COMPARING = 0.6  # of the signatures agree: three standard deviations below a similarity of 0.85


@dataclass(slots=True)
class Dropped:
    """How many rows of one file were dropped, by the first reason that applies."""

    duplicates: int = 0
    in_validation: int = 0  # a whole text equals a validation text
    overlaps: int = 0  # shares a run of words with one
    near_duplicates: int = 0


@dataclass(frozen=True, slots=True)
class _Text:
    """A normalized text as unit numbers; `run` is the length of a run that must not occur in validation."""

    units: list[int]
    run: int


@dataclass(slots=True)
class Cleaner:
    """Cleans the rows of one task: first all validation rows, then one training source after another."""

    _vocabulary: Vocabulary = field(default_factory=Vocabulary)
    _rows: set[int] = field(default_factory=set)  # hashes
    _texts: set[str] = field(default_factory=set)
    _runs: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))  # by length, of validation texts

    def validation(self, rows: Sequence[Row]) -> tuple[list[Row], Dropped]:
        """Return the rows without exact duplicates; training rows must not repeat them from now on."""
        dropped = Dropped()
        kept = [row for row in rows if self._is_new(row, dropped)]
        self._texts.update(text for row in kept for text in _normalized(whole_texts(row)))
        for size, hashes, _ in _hashed_runs([text for row in kept for text in self._read(row)]):
            self._runs[size].update(hashes.tolist())
        return kept, dropped

    def training(self, rows: Sequence[Row]) -> tuple[list[Row], Dropped]:
        """Return the rows of one source that may be trained on."""
        dropped = Dropped()
        rows = [row for row in rows if self._is_new(row, dropped)]
        unseen = [row for row in rows if self._texts.isdisjoint(_normalized(whole_texts(row)))]
        dropped.in_validation = len(rows) - len(unseen)
        read = [self._read(row) for row in unseen]
        once = _without_near_duplicates(read)
        dropped.near_duplicates = len(unseen) - len(once)
        overlapping = self._overlapping([read[number] for number in once])
        dropped.overlaps = int(overlapping.sum())
        return [unseen[number] for number, overlaps in zip(once, overlapping, strict=True) if not overlaps], dropped

    def _is_new(self, row: Row, dropped: Dropped) -> bool:
        identity = hash(json.dumps(row, sort_keys=True))
        is_new = identity not in self._rows
        self._rows.add(identity)
        dropped.duplicates += not is_new
        return is_new

    def _read(self, row: Row) -> list[_Text]:
        texts = _normalized(contents(row))
        sizes = [CHARACTERS_IN_A_ROW if is_chinese(text) else WORDS_IN_A_ROW for text in texts]
        return [_Text(self._vocabulary.units(text), size) for text, size in zip(texts, sizes, strict=True)]

    def _overlapping(self, rows: Sequence[Sequence[_Text]]) -> NDArray[np.bool_]:
        """Which rows share a run with a validation text, boilerplate left out."""
        overlapping = np.zeros(len(rows), bool)
        row_of_text = np.repeat(np.arange(len(rows)), [len(texts) for texts in rows])
        for size, hashes, owners in _hashed_runs([text for texts in rows for text in texts]):
            known = np.fromiter(self._runs[size], np.uint64, len(self._runs[size]))
            shared = np.isin(hashes, known)
            pairs = np.unique(np.stack([hashes[shared], row_of_text[owners[shared]].astype(np.uint64)]), axis=1)
            _, which, count = np.unique(pairs[0], return_inverse=True, return_counts=True)
            overlapping[pairs[1][count[which] <= BOILERPLATE].astype(np.int64)] = True
        return overlapping


def _hashed_runs(texts: Sequence[_Text]) -> Iterator[tuple[int, Hashes, Owners]]:
    """Yield a run length, the hashes of all runs of that length, and the index of the text of each."""
    for size in (WORDS_IN_A_ROW, CHARACTERS_IN_A_ROW):
        numbers = [number for number, text in enumerate(texts) if text.run == size]
        hashes, owners = shingles([texts[number].units for number in numbers], size)
        yield size, hashes, np.array(numbers, np.int64)[owners]


def _without_near_duplicates(rows: Sequence[Sequence[_Text]]) -> list[int]:
    """Indices of the rows that are no near duplicate of an earlier one; rows that share a MinHash band are compared."""
    hashes, owners = shingles([[unit for text in texts for unit in text.units] for texts in rows], _SHINGLE)
    signatures = min_hashes(hashes, owners, len(rows), _BANDS * _BAND_SIZE)
    keys = band_keys(signatures, _BANDS).tolist()
    bounds = np.searchsorted(owners, np.arange(len(rows) + 1)).tolist()
    of_row = [hashes[start:end] for start, end in pairwise(bounds)]
    buckets: dict[int, list[int]] = defaultdict(list)
    kept = []
    for row, own in enumerate(of_row):
        bands = keys[row] if len(own) else []
        earlier = list({other for band in bands for other in buckets.get(band, ())})
        agreeing = (signatures[earlier] == signatures[row]).mean(1) if earlier else []
        alike = [other for other, share in zip(earlier, agreeing, strict=True) if share >= _WORTH_COMPARING]
        if not any(jaccard(own, of_row[other]) >= NEAR_DUPLICATE for other in alike):
            kept.append(row)
            for band in bands:
                buckets[band].append(row)
    return kept


def contents(row: Row) -> list[str]:
    """The texts of a row without its labels, for the overlap check."""
    if row["task"] == "translate":
        return [row["source"], row["target"]]
    if row["task"] == "summarize":
        return [row["document"], row["summary"]]
    if row["task"] == "chat":
        return [message["content"] for message in row["messages"]]
    return [row["text"]]


def whole_texts(row: Row) -> list[str]:
    """The texts of a row that must not equal a validation text. Of a chat the last answer is exempt ("Thanks!")."""
    return ["\n".join(contents(row)[:-1])] if row["task"] == "chat" else contents(row)


def _normalized(texts: Sequence[str]) -> list[str]:
    return [text for text in map(normalize, texts) if text]
