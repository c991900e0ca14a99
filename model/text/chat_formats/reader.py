"""Text that arrives in pieces, read by parsers that are generators: they yield where they need the next piece."""

import re
from collections.abc import Callable, Collection, Generator, Iterator
from functools import lru_cache
from typing import TypeVar

_SPACE = re.compile(r"\s+")
Result = TypeVar("Result")
Reading = Generator[None, None, Result]  # `yield from` it; it yields whenever it needs more text
Emit = Callable[[str], None]


def drop(text: str) -> None:
    """An `Emit` for text that is left out."""


class Markers:
    """Finds the first of several literals in a text, and what may be the beginning of one at its end."""

    def __init__(self, literals: Collection[str]) -> None:
        longest_first = sorted(filter(None, literals), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._prefixes = {literal[:size] for literal in longest_first for size in range(1, len(literal))}
        self._max_prefix = max(map(len, self._prefixes), default=0)

    def search(self, text: str, start: int) -> re.Match[str] | None:
        """The earliest literal, the longest of those that begin there."""
        return self._pattern.search(text, start)

    def held(self, text: str, start: int) -> int:
        """Where the longest end of the text begins that may become a literal; the length of the text if none may."""
        end = len(text)
        sizes = range(min(self._max_prefix, end - start), 0, -1)
        return next((end - size for size in sizes if text[end - size :] in self._prefixes), end)


@lru_cache(maxsize=512)
def markers(*literals: str) -> Markers:
    return Markers(literals)


class Reader:
    """What was fed and not read yet. Whatever the pieces are, a parser sees the same text."""

    def __init__(self) -> None:
        self._text = ""
        self._position = 0
        self._num_dropped = 0  # characters that were read and are not kept
        self._mark: int | None = None
        self.has_ended = False
        self.is_truncated = False  # the text was cut off, perhaps within a marker

    def feed(self, text: str) -> None:
        start = self._position if self._mark is None else self._mark
        self._text = self._text[start:] + text
        self._num_dropped += start
        self._position -= start
        self._mark = None if self._mark is None else 0

    def set_mark(self) -> None:
        """Remember what is read from here on, see `take_marked`."""
        self._mark = self._position

    def clear_mark(self) -> None:
        self._mark = None

    def take_marked(self) -> str:
        """What was read since the mark, which is cleared; empty without a mark."""
        read = "" if self._mark is None else self._text[self._mark : self._position]
        self._mark = None
        return read

    @property
    def rest(self) -> str:
        """What arrived and was not read yet."""
        return self._text[self._position :]

    def characters(self) -> Iterator[str]:
        """Those of `rest`, which may be long: it is not copied."""
        return map(self._text.__getitem__, range(self._position, len(self._text)))

    @property
    def offset(self) -> int:
        """How many characters were read."""
        return self._num_dropped + self._position

    @property
    def is_exhausted(self) -> bool:
        """Whether everything was read and nothing more will come."""
        return self.has_ended and self._position == len(self._text)

    @property
    def was_cut_off(self) -> bool:
        """Whether the text ended here, and was not ended by the model."""
        return self.is_truncated and self.is_exhausted

    def take(self, size: int) -> str:
        start, self._position = self._position, self._position + size
        return self._text[start : self._position]

    def until(self, stops: Markers, emit: Emit) -> Reading[str | None]:
        """Pass the text before the first literal of `stops` on; return the literal, which is read, None at the end."""
        while True:
            found, held = stops.search(self._text, self._position), stops.held(self._text, self._position)
            if found is not None and (found.start() < held or self.has_ended):
                emit(self.take(found.start() - self._position))
                return self.take(len(found[0]))
            if self.has_ended:
                emit(self._last_text(held))
                return None
            emit(self.take(held - self._position))
            yield

    def up_to(self, stops: Markers, emit: Emit) -> Reading[str | None]:
        """Like `until`, but the literal is not read."""
        found = yield from self.until(stops, emit)
        self.unread(len(found or ""))
        return found

    def part(self, stops: Markers, parse: Callable[["Reader"], Iterator[None]]) -> Reading[str | None]:
        """Like `until`, but a parser reads the text before the literal, as if there were no more."""
        part = Reader()
        parser = parse(part)

        def feed(text: str) -> None:
            part.feed(text)
            next(parser, None)

        found = yield from self.until(stops, feed)
        part.has_ended, part.is_truncated = True, found is None and self.is_truncated
        next(parser, None)
        return found

    def _last_text(self, held: int) -> str:
        """What is left at the end, without half a marker."""
        self._drop_half_marker(len(self._text) - held)
        return self.take(len(self._text) - self._position)

    def _drop_half_marker(self, size: int) -> None:
        """Leave out the beginning of a marker where the text was cut off."""
        if self.is_truncated and size:
            self._text = self._text[:-size]

    def unread(self, size: int) -> None:
        """Give back what was read last."""
        self._position -= size

    def take_if(self, *literals: str) -> Reading[str | None]:
        """Read one of the literals, the longest, if the text goes on with it."""
        while True:
            size = len(self._text) - self._position
            if any(size < len(each) and each.startswith(self.rest) for each in literals):
                if not self.has_ended:
                    yield
                    continue
                self._drop_half_marker(size)
            next_ones = (each for each in literals if self._text.startswith(each, self._position))
            found = max(next_ones, key=len, default=None)
            if found is not None:
                self.take(len(found))
            return found

    def goes_on_with(self, *literals: str) -> Reading[bool]:
        """Whether one of the literals comes next; nothing is read."""
        found = yield from self.take_if(*literals)
        self.unread(len(found or ""))
        return found is not None

    def space(self) -> Reading[str]:
        """Read white space."""
        read = ""
        while True:
            found = _SPACE.match(self._text, self._position)
            read += self.take(len(found[0]) if found else 0)
            if self._position < len(self._text) or self.has_ended:
                return read
            yield
