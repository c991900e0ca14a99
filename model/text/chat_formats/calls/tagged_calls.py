"""Calls with the name between tags, then the arguments and a tag that ends the call."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.text.chat_formats.calls.arguments import Arguments, JsonArguments
from model.text.chat_formats.fields import FieldSink, Schemas
from model.text.chat_formats.grammar import GrammarBuilder, one_of, separated
from model.text.chat_formats.reader import Emit, Reader, Reading, drop, markers

_JSON = JsonArguments()
_NAME = re.compile(r"(?:functions\.)?([A-Za-z0-9_.:-]+?)(?::\d+)?")  # with the namespace and number of Kimi's


@dataclass(frozen=True, slots=True)
class TaggedCalls:
    """`section` around all calls, then for each: `open` name `name_close` arguments `close`."""

    open: str
    name_close: tuple[str, ...]
    close: str = ""
    section_open: str = ""
    section_close: str = ""
    arguments: Arguments = _JSON
    one_per_section: bool = False
    id_close: str = ""  # an id stands before the name and ends so
    id_open: str = ""  # an id stands after the name and begins so

    @property
    def opens(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.section_open, self.open)))

    @property
    def closes(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.close.strip(), self.section_close)))

    @property
    def markers(self) -> tuple[str, ...]:
        return (*self.opens, *self.closes, *self.name_close, self.id_open, self.id_close, *self.arguments.markers)

    def write(self, calls: Sequence[tuple[str, Any]]) -> str:
        written = "\n".join(
            f"{self.open}{self._named(name)}{self.arguments.write(arguments, self.close)}" for name, arguments in calls
        )
        return f"{self.section_open}\n{written}\n{self.section_close}".strip()

    def grammar(self, build: GrammarBuilder, schemas: Schemas, *, many: bool) -> str:
        """What follows the first marker of the calls, which is that of the section if there is one."""
        line = self.arguments.line
        call = build.rule(one_of([self._call_grammar(build, *each) for each in schemas.items()]))
        if not self.section_open:
            return separated(call, build.literal(line + self.open), many=many)
        opened, closed = build.literal(line + self.open), build.literal(line + self.section_close)
        if self.one_per_section:
            return separated(f"{opened} {call} {closed}", build.literal(line + self.section_open), many=many)
        return f"{opened} {call} {f'({opened} {call})*' if many else ''} {closed}"

    def _named(self, name: str) -> str:
        """The name and what is around it, with an id where the format has one."""
        before = f"{name}{self.id_close}" if self.id_close else ""
        after = f"{self.id_open}1" if self.id_open else ""
        return f"{before}{name}{after}{self.name_close[0]}"

    def _call_grammar(self, build: GrammarBuilder, name: str, schema: Mapping[str, Any]) -> str:
        return f"{build.literal(self._named(name))} {self.arguments.grammar(build, schema, self.close)}"

    def read(self, opened: str, reader: Reader, sink: FieldSink) -> Reading[bool]:
        """Read what follows one of `opens`. False where there is no call."""
        found = False
        if opened == self.section_open and self.section_open != self.open:
            yield from reader.space()
            if not (yield from reader.take_if(self.open)):
                return False
        while (yield from self._call(reader, sink)):
            found = True
            yield from reader.space()
            reader.set_mark()
            if not (yield from reader.take_if(self.open)):
                reader.clear_mark()
                break
        if found and self.section_close:
            yield from reader.take_if(self.section_close)
        return found

    @property
    def _after_name(self) -> tuple[str, ...]:
        """What ends the name without being part of it."""
        return (*self.arguments.opens, self.close.strip()) if self.arguments.opens else ()

    def _call(self, reader: Reader, sink: FieldSink) -> Reading[bool]:
        name = yield from self._name(reader)
        if name is None:
            return False
        reader.clear_mark()
        sink.begin_call(name)
        yield from reader.space()
        if not (yield from self.arguments.read(sink.schemas.get(name, {}), self, reader, sink.arguments)):
            yield from reader.up_to(markers(*self.opens, *self.closes), sink.arguments)
        yield from reader.space()
        sink.end_call(was_cut_off=reader.was_cut_off)
        if self.close:
            yield from reader.take_if(self.close.strip())
        return True

    def _name(self, reader: Reader) -> Reading[str | None]:
        """The name, None where the text has none. It ends before the first argument where nothing else ends it."""
        if self.id_close and not (yield from self._until(reader, drop, self.id_close)):
            return None
        pieces: list[str] = []
        ends = (*self.name_close, *self._after_name, *filter(None, (self.id_open,)))
        end = yield from self._until(reader, pieces.append, *ends)
        if end and end == self.id_open:
            end = yield from self._until(reader, drop, *self.name_close)
        if end in self._after_name:
            reader.unread(len(end))
        named = _NAME.fullmatch("".join(pieces).strip())
        return named[1] if named and end else None

    def _until(self, reader: Reader, emit: Emit, *ends: str) -> Reading[str | None]:
        """Like `Reader.until`, but no further than to the next marker around calls, which is not read."""
        end = yield from reader.until(markers(*ends, *self.opens, *self.closes), emit)
        if end is None or end in ends:
            return end
        reader.unread(len(end))
        return None
