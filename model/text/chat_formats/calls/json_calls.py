"""Calls as JSON objects with a name and arguments: between markers or alone, one or many, perhaps in a list."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.text.chat_formats.fields import FieldSink, Schemas
from model.text.chat_formats.grammar import GrammarBuilder, one_of, separated
from model.text.chat_formats.json_values import dumped, encodable, json_text, parsed, pass_json
from model.text.chat_formats.reader import Reader, Reading, markers
from model.text.chat_formats.schema_parts import object_schema

_NEWLINE = "\n"
_BEFORE_NAME = ("type", "id", "tool_call_id", "index")  # keys that may come before the name


@dataclass(frozen=True, slots=True)
class JsonCalls:
    """`open` begins the calls, `close` ends them; empty: nothing does.

    Without `open`, an answer that begins with a JSON object that names a tool is a call. `is_list`: the model writes a
    list, even of one call. `key_is_name`: a call is `{"f": {...}}`.
    """

    open: str = ""
    close: str = ""
    name_key: str = "name"
    arguments_key: str = "arguments"
    is_list: bool = False
    key_is_name: bool = False

    @property
    def opens(self) -> tuple[str, ...]:
        return (self.open,) if self.open else ()

    @property
    def closes(self) -> tuple[str, ...]:
        return (self.close,) if self.close else ()

    @property
    def markers(self) -> tuple[str, ...]:
        return (self.open, self.close)

    def write(self, calls: Sequence[tuple[str, Any]]) -> str:
        written = [dumped(self._object_of(*call)) for call in calls]
        if self.is_list:
            return f"{self.open}[{', '.join(written)}]{self.close}"
        return "\n".join(f"{self.open}\n{call}\n{self.close}".strip() for call in written)

    def grammar(self, build: GrammarBuilder, schemas: Schemas, *, many: bool) -> str:
        call = build.rule(one_of([self._call_grammar(build, *each) for each in schemas.items()]))
        if self.is_list:
            listed = separated(call, build.literal(", "), many=many)
            return f"{build.literal('[')} {listed} {build.literal(']' + self.close)}"
        if not self.open:
            return call
        closed = f"{build.literal(_NEWLINE)} {call} {build.literal(_NEWLINE + self.close)}"
        return separated(closed, build.literal(_NEWLINE + self.open), many=many)

    def _call_grammar(self, build: GrammarBuilder, name: str, schema: Mapping[str, Any]) -> str:
        head = f'{{"{self.name_key}": {json.dumps(name)}, "{self.arguments_key}": '
        if self.key_is_name:
            head = f"{{{json.dumps(name)}: "
        return f"{build.literal(head)} {build.json(object_schema(schema))} {build.literal('}')}"

    def _object_of(self, name: str, arguments: Any) -> dict[str, Any]:
        return {name: arguments} if self.key_is_name else {self.name_key: name, self.arguments_key: arguments}

    def read(self, opened: str, reader: Reader, sink: FieldSink) -> Reading[bool]:
        """Read what follows `open`, or a whole answer without it. False where there is no call."""
        yield from reader.space()
        yield from reader.take_if("[")
        found = False
        while (yield from self._goes_on(reader)):
            if found:
                reader.set_mark()
            if not (yield from self._object(reader, sink)):
                return found
            found = True
        if found:
            yield from self._end(reader)
        return found

    def _goes_on(self, reader: Reader) -> Reading[bool]:
        yield from reader.space()
        if (yield from reader.take_if(",", ";")):
            yield from reader.space()
        return (yield from reader.goes_on_with("{"))

    def _end(self, reader: Reader) -> Reading[None]:
        """Read the closing marker, and brackets before it even if there are too many."""
        while (yield from reader.take_if("]", "}")):
            yield from reader.space()
        if self.close:
            yield from reader.take_if(self.close)

    def _object(self, reader: Reader, sink: FieldSink) -> Reading[bool]:
        """One call. False where there is none; a call that is cut off after its name is one."""
        reader.take(1)
        call = _Call(self, reader, sink)
        while (key := (yield from call.next_key())) is not None:
            yield from call.read_member(key)
            if call.name is None and not call.may_be_one(key):
                return False
        if call.name is not None:
            yield from call.end()
        return call.name is not None


class _Call:
    """One object. Arguments that come before the name wait for it; broken ones are passed on as they were written."""

    def __init__(self, form: JsonCalls, reader: Reader, sink: FieldSink) -> None:
        self._form, self._reader, self._sink = form, reader, sink
        self._early_arguments = ""
        self._others: list[str] = []  # members beside name and arguments
        self._broken_key = ""
        self.name: str | None = None

    def may_be_one(self, key: str) -> bool:
        """Whether an object with `key` before any name may still be a call."""
        form = self._form
        return bool(form.open) or key in _BEFORE_NAME or key in (form.arguments_key, "arguments", "parameters")

    def next_key(self) -> Reading[str | None]:
        """The next key of the object with its colon; None at the end of the object, and where there is none."""
        reader = self._reader
        yield from reader.space()
        if (yield from reader.take_if(",")):
            yield from reader.space()
        if not (yield from reader.goes_on_with('"')):
            return None
        written = yield from json_text(reader)
        key = parsed(written)
        yield from reader.space()
        if not isinstance(key, str) or not (yield from reader.take_if(":")):
            self._broken_key = written
            return None
        yield from reader.space()
        return key

    def end(self) -> Reading[None]:
        """The end of the object. If nothing was named as arguments, they are what else is there."""
        reader, sink = self._reader, self._sink
        is_closed = not self._broken_key and (yield from reader.take_if("}")) is not None
        if not sink.has_arguments and not reader.was_cut_off:
            sink.arguments("{" + ", ".join(self._others) if self._others else "")
            if not is_closed:
                sink.arguments(self._broken_key)
                yield from self._rest()
            elif self._others:
                sink.arguments("}")
        elif self._broken_key and not reader.was_cut_off:
            sink.text(self._broken_key)
        sink.end_call(was_cut_off=reader.was_cut_off)

    def _rest(self) -> Reading[None]:
        """Pass on what is broken, up to the end of the calls."""
        yield from self._reader.up_to(markers(*self._form.opens, *self._form.closes), self._sink.arguments)

    def read_member(self, key: str) -> Reading[None]:
        form, reader = self._form, self._reader
        if form.key_is_name and self.name is None:
            self._begin(key)
            yield from self._arguments()
        elif key == form.name_key and self.name is None:
            self._begin(parsed((yield from json_text(reader))))
        elif key not in (form.arguments_key, "arguments", "parameters"):
            value = yield from json_text(reader)
            if key not in _BEFORE_NAME:
                self._others.append(f"{dumped(key)}: {value}")
        elif self.name is None:
            self._early_arguments = yield from json_text(reader)
        else:
            yield from self._arguments()

    def _arguments(self) -> Reading[None]:
        """An object as it comes, anything else when it is whole."""
        reader, sink = self._reader, self._sink
        pieces: list[str] = []
        is_object = yield from reader.goes_on_with("{")
        is_whole = yield from pass_json(reader, sink.arguments if is_object else pieces.append)
        if is_whole or not reader.was_cut_off:
            sink.arguments(_object_text("".join(pieces)))
        if not is_whole:
            yield from self._rest()

    def _begin(self, name: object) -> None:
        """Begin a call, if `name` is one of a tool."""
        if not isinstance(name, str) or not (self._form.open or name in self._sink.schemas):
            return
        self.name = encodable(name)
        self._reader.clear_mark()
        self._sink.begin_call(self.name)
        if self._early_arguments:
            self._sink.arguments(_object_text(self._early_arguments))


def _object_text(text: str) -> str:
    """The arguments as an object: some models write its text as a string, or nothing as null or an empty list."""
    value = parsed(text)
    if isinstance(value, str):
        return encodable(value)
    return "" if text.strip() in ("null", "[]") else text
