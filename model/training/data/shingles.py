"""Hashed runs of neighbouring words or characters (shingles), computed for many texts at once.

Shapes: U units of all texts one after another, S shingles, T texts.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from model.text.language_detection import HAN

Hashes = NDArray[np.uint64]
Owners = NDArray[np.int64]

_NOT_WORD = re.compile(r"[\W_]+")
_HAN = re.compile(f"[{HAN}]")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, its bits without a pattern (2^64 / golden ratio)


def normalize(text: str) -> str:
    """The text without regard to case, width, spaces and punctuation."""
    return _NOT_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def is_chinese(text: str) -> bool:
    """Whether a text is compared by characters instead of words."""
    return _HAN.search(text) is not None


@dataclass(slots=True)
class Vocabulary:
    """Gives every unit (a word, or a character of Chinese) a number, in the order in which they are met."""

    _numbers: dict[str, int] = field(default_factory=dict)

    def units(self, normalized: str) -> list[int]:
        """The units of a normalized text: its characters where it is Chinese, its words otherwise."""
        units = normalized.replace(" ", "") if is_chinese(normalized) else normalized.split()
        numbers = self._numbers
        return [numbers.setdefault(unit, len(numbers)) for unit in units]


def shingles(texts: Sequence[Sequence[int]], size: int) -> tuple[Hashes, Owners]:
    """Hash every run of `size` units inside each text: hashes [S], and the text that each stands in [S], ascending."""
    lengths_T = np.fromiter(map(len, texts), np.int64, len(texts))
    units_U = np.fromiter((unit for text in texts for unit in text), np.uint64, int(lengths_T.sum()))
    owners_U = np.repeat(np.arange(len(texts)), lengths_T)
    count = len(units_U) - size + 1
    if count <= 0:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    mixed_U, hashes = _mix(units_U + np.uint64(1)), np.zeros(count, np.uint64)
    for place in range(size):
        hashes = hashes * _MULTIPLIER + mixed_U[place : place + count]
    whole = owners_U[:count] == owners_U[size - 1 :]  # runs that do not reach into the next text
    return _mix(hashes[whole]), owners_U[:count][whole]


def min_hashes(hashes: Hashes, owners: Owners, texts: int, count: int) -> Hashes:
    """MinHash (Broder 1997): `count` signatures of each text [T, count]; all ones for texts without a shingle.

    Two texts agree in a signature with the probability of their Jaccard similarity.
    """
    signatures = np.full((texts, count), np.iinfo(np.uint64).max)
    present, starts = np.unique(owners, return_index=True)
    for number in range(count if len(present) else 0):
        salt = _mix(np.array([number + 1], np.uint64))
        signatures[present, number] = np.minimum.reduceat(_mix(hashes ^ salt), starts)
    return signatures


def band_keys(signatures: Hashes, bands: int) -> Hashes:
    """Cut signatures [T, count] into bands; return a key per band [T, bands], equal where a band is equal."""
    parts = signatures.reshape(len(signatures), bands, signatures.shape[1] // bands)
    keys = np.zeros(parts.shape[:2], np.uint64) + np.arange(bands, dtype=np.uint64)
    for place in range(parts.shape[2]):
        keys = _mix(keys + parts[:, :, place])
    return keys


def jaccard(first: Hashes, second: Hashes) -> float:
    """Shared shingles in proportion to all of both."""
    shared = len(np.intersect1d(first, second))
    return shared / max(len(np.unique(first)) + len(np.unique(second)) - shared, 1)


def _mix(x: Hashes) -> Hashes:
    """A bijection that spreads every bit over all 64 (the finalizer of SplitMix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
