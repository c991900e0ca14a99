"""A text as sentences and what stands between them, so that it can be put together again with other sentences."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# What may follow the mark that ends a sentence and still belongs to it.
_CLOSING = "\"'”’»)\\]）」』"
# It begins where a run of marks does and gives nothing back: a line of a million dots is read once.
_END = re.compile(rf"(?:(?<![.!?…])[.!?…]++[{_CLOSING}]*+(?=\s)|[。！？]+[{_CLOSING}]*)")
_LINE = re.compile(r"[^\n]+")
_LIST_MARK = re.compile(r"\s*(?:(?:[-*•]|\d{1,3}[.)])\s+(?=\S))?")
_LAST_WORD = re.compile(r"\S+\Z")
_NEAR = 32  # characters on either side of a full stop that are looked at
_WORD = re.compile(r"\w")
# Words whose full stop does not end a sentence. Single letters (initials, "z. B.") are treated alike.
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
    """A sentence, and what stands before it: the line breaks, list marks and spaces since the one before."""

    before: str
    text: str


@dataclass(frozen=True, slots=True)
class SentenceSplit:
    """A whole text: `"".join(s.before + s.text for s in sentences) + after` is the text itself."""

    sentences: tuple[Sentence, ...]
    after: str


def split_sentences(text: str) -> SentenceSplit:
    """Cut a text at the ends of sentences and of lines, by English, German, French and Chinese punctuation.

    A sentence has a letter or a digit; a text without any is one sentence.
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
    """What to write before a sentence: line breaks and list marks as they were, else a space or nothing.

    `spaced`: sentences of one line stand a space apart, as not in Chinese.
    """
    before = sentences[index].before
    if index == 0 or before.strip(" ") != "":
        return before
    return " " if spaced else ""


def _stripped(text: str) -> tuple[int, int]:
    start = len(text) - len(text.lstrip())
    return start, start + len(text.strip())


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """Where each sentence starts and ends, without the spaces around it."""
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
            if _WORD.search(stripped):  # a rule of dashes or stars belongs to what stands between sentences
                first, last = _stripped(piece)
                yield start + first, start + last
            start = end


def _is_abbreviation(line: str, end: re.Match[str]) -> bool:
    """Whether the full stop belongs to a short form or an initial, or what follows goes on in lower case."""
    if end.group() != ".":
        return False
    word = _LAST_WORD.search(line[max(end.start() - _NEAR, 0) : end.start()])
    name = word.group().lower().lstrip("(\"'„“«") if word else ""
    following = _WORD.search(line, end.end(), end.end() + _NEAR)
    goes_on = following is not None and following.group().islower()
    is_initial = len(name) == 1 and name.isalpha() and name != "i"
    return name in _ABBREVIATIONS or is_initial or goes_on
