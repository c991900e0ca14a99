"""Splits a text into sentences and the gaps between them, so that it can be rebuilt with other sentences."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# May follow the punctuation that ends a sentence, and still belongs to it.
_CLOSING = "\"'”’»)\\]）」』"
# Possessive quantifiers and the lookbehind avoid backtracking: a line of a million dots is read once.
_END = re.compile(rf"(?:(?<![.!?…])[.!?…]++[{_CLOSING}]*+(?=\s)|[。！？]+[{_CLOSING}]*)")
_LINE = re.compile(r"[^\n]+")
_LIST_MARK = re.compile(r"\s*(?:(?:[-*•]|\d{1,3}[.)])\s+(?=\S))?")
_LAST_WORD = re.compile(r"\S+\Z")
_NEAR = 32  # characters that are examined on either side of a full stop
_WORD = re.compile(r"\w")
# Words whose full stop does not end a sentence. Single letters (initials, "z. B.") do not end one either.
_ABBREVIATIONS = frozenset(
    (
        *("mr", "mrs", "ms", "dr", "prof", "st", "jr", "sr", "vs", "etc", "no", "vol", "fig", "eq", "inc", "ltd", "co"),
        *("approx", "dept", "est", "e.g", "i.e", "u.s", "a.m", "p.m"),
        *(
            "bzw",
            "ca",
            "usw",
            "vgl",
            "nr",
            "str",
            "ggf",
            "evtl",
            "inkl",
            "bspw",
            "hr",
            "fr",
            "abs",
            "z.b",
            "d.h",
            "u.a",
        ),
        *("m", "mme", "mlle", "mm", "c.-à-d", "p.ex", "av", "env"),
    )
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence, and the text before it: line breaks, list markers and spaces after the previous sentence."""

    before: str
    text: str


@dataclass(frozen=True, slots=True)
class SentenceSplit:
    """A split text: `"".join(s.before + s.text for s in sentences) + after` is the original text."""

    sentences: tuple[Sentence, ...]
    after: str


def split_sentences(text: str) -> SentenceSplit:
    """Split a text at the ends of sentences and lines, by English, German, French and Chinese punctuation.

    Every sentence has a letter or a digit; a text without any is one sentence.
    """
    sentences: list[Sentence] = []
    done = 0
    spans = list(_spans(text))
    if not spans and text.strip():
        spans = [_stripped(text)]
    for start, end in spans:
        sentences.append(Sentence(text[done:start], text[start:end]))
        done = end
    return SentenceSplit(tuple(sentences), text[done:])


def gap_before(sentences: Sequence[Sentence], index: int, *, spaced: bool) -> str:
    """The text to write before a sentence: the original line breaks and list markers, otherwise a space or nothing.

    `spaced`: there is a space between sentences of a line, as in all languages here but Chinese.
    """
    before = sentences[index].before
    if index == 0 or before.strip(" ") != "":
        return before
    return " " if spaced else ""


def _stripped(text: str) -> tuple[int, int]:
    start = len(text) - len(text.lstrip())
    return start, start + len(text.strip())


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """The start and the end of each sentence, without surrounding spaces."""
    for line in _LINE.finditer(text):
        mark = _LIST_MARK.match(line.group())
        assert mark is not None  # it matches the empty string too
        start = line.start() + mark.end()
        ends = [
            line.start() + end.end() for end in _END.finditer(line.group()) if not _is_abbreviation(line.group(), end)
        ]
        for end in (*(end for end in ends if end > start), line.end()):
            piece = text[start:end]
            stripped = piece.strip()
            if _WORD.search(stripped):  # a line of dashes or stars belongs to the gap
                first, last = _stripped(piece)
                yield start + first, start + last
            start = end


def _is_abbreviation(line: str, end: re.Match[str]) -> bool:
    """Whether the full stop ends an abbreviation or initial, or is followed by a lower-case word."""
    if end.group() != ".":
        return False
    word = _LAST_WORD.search(line[max(end.start() - _NEAR, 0) : end.start()])
    name = word.group().lower().lstrip("(\"'„“«") if word else ""
    following = _WORD.search(line, end.end(), end.end() + _NEAR)
    goes_on = following is not None and following.group().islower()
    is_initial = len(name) == 1 and name.isalpha() and name != "i"
    return name in _ABBREVIATIONS or is_initial or goes_on
