"""JSON values in text that arrives in pieces: their text is passed on as it comes."""

import json
import math
from collections.abc import Iterable
from typing import Any

from model.text.chat_formats.reader import Emit, Reader, Reading

MAX_DEPTH = 128  # of arguments: templates, JSON writers and comparisons recurse into them

_CLOSERS = {"{": "}", "[": "]"}
_OUTSIDE_STRINGS = frozenset(" \t\r\n,:+-.0123456789eEtrufalsn")  # what a JSON value has beside strings and brackets


class JsonScanner:
    """Finds the end of one JSON value. A character that no JSON has outside of strings ends it as broken."""

    def __init__(self) -> None:
        self._closers: list[str] = []
        self._in_string = False
        self._is_escaped = False
        self._has_begun = False
        self.has_ended = False

    @property
    def is_whole(self) -> bool:
        """Whether there is a value, with all its quotes and brackets closed."""
        return self._has_begun and not self._in_string and not self._closers

    def scan(self, text: Iterable[str]) -> int:
        """Return how many of the next characters belong to the value; sets `has_ended`."""
        place = 0
        for place, character in enumerate(text, 1):
            read = self._within_string if self._in_string else self._outside_string
            size = read(character)
            if self.has_ended:
                return place - 1 + size
        return place

    def _within_string(self, character: str) -> int:
        if self._is_escaped:
            self._is_escaped = False
        elif character == "\\":
            self._is_escaped = True
        elif character == '"':
            self._in_string = False
            self.has_ended = not self._closers
        return 1

    def _outside_string(self, character: str) -> int:
        """1 if the character belongs to the value."""
        if character == '"':
            self._in_string = True
        elif character in _CLOSERS:
            self._closers.append(_CLOSERS[character])
        elif self._closers and character == self._closers[-1]:
            self._closers.pop()
            self.has_ended = not self._closers
        elif character not in _OUTSIDE_STRINGS or (not self._closers and self._has_begun and character in ", \t\r\n"):
            self.has_ended = True
            return 0
        self._has_begun = self._has_begun or not character.isspace()
        return 1


def pass_json(reader: Reader, emit: Emit) -> Reading[bool]:
    """Pass the text of one JSON value on as it comes. False where it is broken or not closed."""
    scanner = JsonScanner()
    while True:
        emit(reader.take(scanner.scan(reader.characters())))
        if scanner.has_ended or reader.has_ended:
            return scanner.is_whole
        yield


def pass_object(reader: Reader, emit: Emit) -> Reading[bool]:
    """Like `pass_json`, but nothing is read and the answer is False where another value than an object begins."""
    return (yield from reader.goes_on_with("{")) and (yield from pass_json(reader, emit))


def json_text(reader: Reader) -> Reading[str]:
    """The text of one JSON value."""
    pieces: list[str] = []
    yield from pass_json(reader, pieces.append)
    return "".join(pieces)


def parsed(text: str) -> Any:
    """The value of a JSON text, None if it is none. Python's NaN and infinity are none."""
    try:
        return json.loads(text, strict=False, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError):
        return None


def dumped(value: Any) -> str:
    """The JSON text of a value. ValueError or TypeError if it has none."""
    return encodable(json.dumps(value, ensure_ascii=False, allow_nan=False))


def encodable(text: str) -> str:
    """The text with an escape for each surrogate: models write them as escapes, and UTF-8 has none."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is not JSON")
    return value


def parsed_or_text(text: str) -> Any:
    """The value of a JSON text; what cannot be parsed, or is deeper than MAX_DEPTH, stays a text."""
    value = parsed(text)
    return text if value is None or is_deeper(value, MAX_DEPTH) else value


def is_deeper(value: Any, max_depth: int) -> bool:
    """Whether more than `max_depth` lists and objects are in each other. It goes level by level, without recursion."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(max_depth):
        if not level:
            return False
        level = [part for value in level for part in _parts(value) if isinstance(part, dict | list)]
    return bool(level)


def _parts(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value
