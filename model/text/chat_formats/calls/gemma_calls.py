"""Calls as Gemma writes them: names without quotes, and texts between quotes that are tokens of their own.

    <|tool_call>call:weather{city:<|"|>Paris<|"|>,days:3,options:{units:[<|"|>c<|"|>,null]}}<tool_call|>

A text has no escapes: it ends at the next quote. Names may have quotes too. JSON is read as well. See
https://ai.google.dev/gemma/docs/core/prompt-formatting-gemma4.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.text.chat_formats.calls.json_grammar import json_grammar
from model.text.chat_formats.calls.plain_values import property_schemas, schema_types, text_grammar
from model.text.chat_formats.fields import FieldSink, Schemas
from model.text.chat_formats.grammar import (
    GrammarBuilder,
    in_order,
    one_of,
    repeated,
    separated,
)
from model.text.chat_formats.json_values import MAX_DEPTH, dumped, json_text, parsed, parsed_or_text
from model.text.chat_formats.reader import Emit, Reader, Reading, markers
from model.text.chat_formats.schema_parts import item_schema, member_schemas, object_schema, parameter_schemas

_CALL = "call:"
_PLAIN_KEY = re.compile(r"[\w.$@/-]+")  # one without quotes
_NAME = re.compile(r"[A-Za-z0-9_.:-]+")
_CLOSERS = {"{": "}", "[": "]"}
_PYTHON = {"True": "true", "False": "false", "None": "null", "": "null"}  # of templates that write Python's values


@dataclass(frozen=True, slots=True)
class GemmaCalls:
    open: str
    close: str
    quote: str

    @property
    def opens(self) -> tuple[str, ...]:
        return (self.open,)

    @property
    def closes(self) -> tuple[str, ...]:
        return (self.close,)

    @property
    def markers(self) -> tuple[str, ...]:
        return (self.open, self.close, self.quote)

    def write(self, calls: Sequence[tuple[str, Any]]) -> str:
        return "".join(
            f"{self.open}{_CALL}{name}{self._written(arguments if isinstance(arguments, dict) else {})}{self.close}"
            for name, arguments in calls
        )

    def _written(self, value: Any) -> str:
        if isinstance(value, dict):
            return f"{{{','.join(f'{self._key(key)}:{self._written(each)}' for key, each in value.items())}}}"
        if isinstance(value, list):
            return f"[{','.join(map(self._written, value))}]"
        return f"{self.quote}{value}{self.quote}" if isinstance(value, str) else dumped(value)

    def _key(self, key: str) -> str:
        return key if _PLAIN_KEY.fullmatch(key) else f"{self.quote}{key}{self.quote}"

    def grammar(self, build: GrammarBuilder, schemas: Schemas, *, many: bool) -> str:
        calls = [
            f"{build.literal(_CALL + name)} {self._object_grammar(build, parameter_schemas(schema), schema)}"
            for name, schema in schemas.items()
        ]
        call = f"{build.rule(one_of(calls))} {build.literal(self.close)}"
        return separated(call, build.literal(self.open), many=many)

    def _object_grammar(
        self, build: GrammarBuilder, members: Mapping[str, Mapping[str, Any]], schema: Mapping[str, Any]
    ) -> str:
        written = {
            key: f"{build.literal(f'{self._key(key)}:')} {self._value_grammar(build, each)}"
            for key, each in members.items()
        }
        listed = in_order(build, written, object_schema(schema), build.literal(","))
        return f"{build.literal('{')} {listed} {build.literal('}')}"

    def _value_grammar(self, build: GrammarBuilder, schema: Mapping[str, Any]) -> str:
        """What no schema describes part by part is JSON."""
        members, item = member_schemas(schema), item_schema(schema)
        if members is not None:
            return build.rule(self._object_grammar(build, members, schema))
        if item is not None:
            items = repeated(self._value_grammar(build, item), build.literal(","), schema)
            return build.rule(f"{build.literal('[')} {items} {build.literal(']')}")
        if schema_types(schema) == {"string"}:
            return build.rule(f"{build.literal(self.quote)} {text_grammar(build, schema, self.quote)}")
        return json_grammar(build, schema)

    def read(self, opened: str, reader: Reader, sink: FieldSink) -> Reading[bool]:
        """Read what follows `open`. False where there is no call."""
        yield from reader.space()
        if not (yield from reader.take_if(_CALL)):
            return False
        pieces: list[str] = []
        end = yield from reader.until(markers("{", self.close), pieces.append)
        name = "".join(pieces).strip()
        if end != "{" or not _NAME.fullmatch(name):
            return False
        reader.clear_mark()
        sink.begin_call(name)
        yield from _Values(self, reader, sink.arguments).members("{", sink.schemas.get(name))
        sink.end_call(was_cut_off=reader.was_cut_off)
        yield from reader.space()
        yield from reader.take_if(self.close)
        return True


class _Values:
    """Reads the values of a call and passes them on as JSON while they come.

    What the model does not close is closed at the end of the call, but not where the text is cut off.
    """

    def __init__(self, form: GemmaCalls, reader: Reader, emit: Emit) -> None:
        self._form, self._reader, self._emit = form, reader, emit

    def members(self, opened: str, schema: Any, depth: int = 1) -> Reading[None]:
        """What follows the bracket of an object or a list."""
        reader, separator = self._reader, ""
        properties, items = property_schemas(schema), schema.get("items") if isinstance(schema, dict) else None
        self._emit(opened)
        while True:
            yield from reader.space()
            closed = yield from reader.take_if("}", "]")
            if closed or reader.is_exhausted or (yield from reader.goes_on_with(self._form.close)):
                break
            key = (yield from self._key(properties)) if opened == "{" else ""
            if key is not None:
                self._emit(f"{separator}{dumped(key)}: " if opened == "{" else separator)
                separator = ", "
                yield from self._value(properties.get(key) if opened == "{" else items, depth)
                yield from reader.space()
            yield from reader.take_if(",")
        if closed or not reader.was_cut_off:
            self._emit(_CLOSERS[opened])

    def _key(self, names: Iterable[str]) -> Reading[str | None]:
        """The next key, whose colon is read too; None where there is none. `names` may have colons without quotes."""
        known = yield from self._reader.take_if(*(f"{name}:" for name in names))
        if known is not None:
            return known[:-1]
        key = yield from self._unknown_key()
        yield from self._reader.space()
        has_colon = yield from self._reader.take_if(":")
        return key if has_colon or (key and not self._reader.was_cut_off) else None

    def _unknown_key(self) -> Reading[str]:
        reader, form = self._reader, self._form
        if (yield from reader.goes_on_with('"')):
            return str(parsed_or_text((yield from json_text(reader))))
        pieces: list[str] = []
        if (yield from reader.take_if(form.quote)):
            yield from reader.up_to(markers(form.quote, form.close), pieces.append)
            yield from reader.take_if(form.quote)
            return "".join(pieces)
        yield from reader.up_to(markers(":", ",", "}", "]", form.close), pieces.append)
        return "".join(pieces).replace(form.quote, "").strip()

    def _value(self, schema: Any, depth: int) -> Reading[None]:
        reader = self._reader
        yield from reader.space()
        opened = yield from reader.take_if("{", "[", self._form.quote)
        if opened == self._form.quote:
            yield from self._text()
        elif opened is not None and depth < MAX_DEPTH:
            yield from self.members(opened, schema, depth + 1)
        elif (yield from reader.goes_on_with('"')):
            written = yield from json_text(reader)
            if not reader.was_cut_off:
                self._emit(dumped(parsed_or_text(written)))
        else:
            yield from self._word()

    def _text(self) -> Reading[None]:
        """A text, which is passed on as it comes."""
        self._emit('"')
        ends = markers(self._form.quote, self._form.close)
        end = yield from self._reader.up_to(ends, lambda piece: self._emit(dumped(piece)[1:-1]))
        yield from self._reader.take_if(self._form.quote)
        if end is not None or not self._reader.was_cut_off:
            self._emit('"')

    def _word(self) -> Reading[None]:
        """A value without quotes: a number or a constant, and otherwise a text."""
        pieces: list[str] = []
        end = yield from self._reader.up_to(markers(",", "}", "]", self._form.close), pieces.append)
        if end is None and self._reader.was_cut_off:
            return
        word = "".join(pieces).replace(self._form.quote, "").strip()
        word = _PYTHON.get(word, word)
        is_json = word == "null" or isinstance(parsed(word), int | float)
        self._emit(word if is_json else dumped(word))
