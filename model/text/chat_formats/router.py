"""Cuts an answer into content, reasoning and tool calls while it is generated."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from model.text.chat_formats.fields import Field, FieldDelta, FieldSink, Schemas
from model.text.chat_formats.reader import Reader, Reading
from model.text.detokenizer import Detokenizer


class AnswerParser(Protocol):
    """Reads a whole answer and writes its fields to a sink."""

    def read_answer(self, reader: Reader, sink: FieldSink) -> Reading[None]: ...


class AnswerRouter:
    """`feed` it the text of an answer, special tokens included, in any pieces; then call `finish`.

    The deltas joined are the same whatever the pieces are. It holds back only what may be the beginning of a marker,
    and white space at the end of a field.
    """

    def __init__(self, parser: AnswerParser, schemas: Schemas) -> None:
        """`schemas` are those of the tools that may be called."""
        self._reader, self._sink = Reader(), FieldSink(schemas)
        self._parser: Iterator[None] = parser.read_answer(self._reader, self._sink)
        self._has_ended = False
        self._advance()

    @property
    def field(self) -> Field:
        """The field that the text is in now."""
        return self._sink.field

    @property
    def call_ends(self) -> Sequence[tuple[int, int]]:
        """(number of calls so far, how many characters were read when they were complete)."""
        return self._sink.call_ends

    def feed(self, text: str) -> list[FieldDelta]:
        self._reader.feed(text)
        return self._advance()

    def finish(self, *, truncated: bool = False) -> list[FieldDelta]:
        """The end of the answer. `truncated`: it was cut off, and not ended by the model."""
        self._reader.has_ended, self._reader.is_truncated = True, truncated
        self._advance_parser()
        self._sink.finish()
        return self._sink.take()

    def _advance(self) -> list[FieldDelta]:
        self._advance_parser()
        return self._sink.take()

    def _advance_parser(self) -> None:
        if not self._has_ended:
            self._has_ended = next(self._parser, self) is self


class ContentDetokenizer:
    """A detokenizer that keeps the content of an answer alone."""

    def __init__(self, text: Detokenizer, parser: AnswerParser) -> None:
        """`text` writes the special tokens of the format."""
        self._text, self._router = text, AnswerRouter(parser, {})

    def push(self, ids: Sequence[int]) -> str:
        return _content(self._router.feed(self._text.push(ids)))

    def finish(self) -> str:
        return _content([*self._router.feed(self._text.finish()), *self._router.finish()])


def _content(deltas: list[FieldDelta]) -> str:
    return "".join(delta.text for delta in deltas if delta.field is Field.CONTENT)
