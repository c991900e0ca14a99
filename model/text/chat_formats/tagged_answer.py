"""Answers as most models write them: reasoning between two markers, then content and calls between others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from model.text.chat_formats.fields import Field, FieldSink, Schemas
from model.text.chat_formats.grammar import GrammarBuilder
from model.text.chat_formats.reader import Reader, Reading, markers


class Calls(Protocol):
    """A way to write calls. `opens` begin them; `closes` are left out of the content wherever they are."""

    @property
    def opens(self) -> tuple[str, ...]: ...

    @property
    def closes(self) -> tuple[str, ...]: ...

    @property
    def markers(self) -> tuple[str, ...]:
        """All fixed texts of the format."""

    def write(self, calls: Sequence[tuple[str, Any]]) -> str:
        """The text of calls, names and arguments, as the model would write it."""

    def grammar(self, build: GrammarBuilder, schemas: Schemas, *, many: bool) -> str:
        """An expression for what follows the first of `opens`: a call of one of the tools, or several with `many`."""

    def read(self, opened: str, reader: Reader, sink: FieldSink) -> Reading[bool]: ...


@dataclass(frozen=True, slots=True)
class ReasoningMarkers:
    open: str
    close: str


@dataclass(frozen=True, slots=True)
class TaggedAnswer:
    """What an answer may have. `in_reasoning`: it begins there, because the prompt has the opening marker.

    `is_continued`: it goes on with a message of the prompt. `special` are special tokens of the format, which never are
    text, and `ignored` are markers around the content.
    """

    reasoning: ReasoningMarkers | None = None
    calls: Calls | None = None
    in_reasoning: bool = False
    is_continued: bool = False
    special: frozenset[str] = frozenset()
    ignored: Sequence[str] = ()

    def read_answer(self, reader: Reader, sink: FieldSink) -> Reading[None]:
        if self.in_reasoning:
            sink.enter(Field.REASONING, is_continued=self.is_continued)
            yield from self._reasoning(reader, sink)
        elif not self.is_continued:
            yield from self._beginning(reader, sink)
        while not reader.is_exhausted:
            yield from self._content(reader, sink)

    def _beginning(self, reader: Reader, sink: FieldSink) -> Reading[None]:
        """Reasoning, or a call without a marker, where the answer begins with one.

        A closing marker alone says that there is no reasoning.
        """
        space = yield from reader.space()
        if self.reasoning is not None:
            marker = yield from reader.take_if(self.reasoning.open, self.reasoning.close)
            if marker == self.reasoning.open:
                sink.enter(Field.REASONING)
                yield from self._reasoning(reader, sink)
                return
            if marker is not None:
                sink.enter(Field.CONTENT)
                space = ""
        sink.text(space)
        yield from self._unmarked_call(reader, sink)

    def _reasoning(self, reader: Reader, sink: FieldSink) -> Reading[None]:
        """Up to the closing marker, or to a call: some models forget to close."""
        assert self.reasoning is not None
        opens = self.calls.opens if self.calls else ()
        while not reader.is_exhausted:
            stop = yield from self._text(reader, sink, self.reasoning.close, *opens)
            if stop == self.reasoning.close:
                sink.enter(Field.CONTENT)
                yield from self._unmarked_call(reader, sink)
                return
            if stop is not None and (yield from self._call(stop, reader, sink)):
                yield from self._after_call(reader, sink)
                return

    def _content(self, reader: Reader, sink: FieldSink) -> Reading[None]:
        opens = self.calls.opens if self.calls else ()
        stop = yield from self._text(reader, sink, *opens)
        if stop is not None and (yield from self._call(stop, reader, sink)):
            yield from self._after_call(reader, sink)

    def _after_call(self, reader: Reader, sink: FieldSink) -> Reading[None]:
        """The end of reasoning that a call has interrupted, or more reasoning."""
        yield from reader.space()
        if self.reasoning is not None:
            yield from reader.take_if(self.reasoning.close)  # of reasoning that ended with a call
            yield from reader.space()
            if (yield from reader.take_if(self.reasoning.open)):
                sink.enter(Field.REASONING)
                yield from self._reasoning(reader, sink)

    def _unmarked_call(self, reader: Reader, sink: FieldSink) -> Reading[None]:
        """A call that no marker begins, in a format without one."""
        if self.calls is None or self.calls.opens:
            return
        space = yield from reader.space()
        if not (yield from reader.goes_on_with("{", "[")):
            sink.text(space)
            return
        yield from self._call("", reader, sink)

    def _call(self, opened: str, reader: Reader, sink: FieldSink) -> Reading[bool]:
        """Read a call. What looked like one and is none is text, except where it is cut off."""
        assert self.calls is not None
        reader.set_mark()
        found = yield from self.calls.read(opened, reader, sink)
        if found:
            sink.call_ends.append((sink.num_calls, reader.offset))
        text = reader.take_marked() if found else opened + reader.take_marked()
        if text and not (opened and reader.was_cut_off):
            sink.text(self._without_special(text))
        return found

    def _without_special(self, text: str) -> str:
        for token in self.special:
            text = text.replace(token, "")
        return text

    def _text(self, reader: Reader, sink: FieldSink, *stops: str) -> Reading[str | None]:
        """Pass text on up to one of the stops, without special tokens and without markers that close nothing."""
        dropped = {*self.special, *self.ignored, *(self.calls.closes if self.calls else ())} - set(stops)
        every = markers(*stops, *dropped)
        while (stop := (yield from reader.until(every, sink.text))) in dropped:
            pass
        return stop
