"""Calls with the name between tags, and as arguments a JSON object or a tag for each."""

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.text.chat_formats.fields import FieldSink, Schemas
from model.text.chat_formats.grammar import (
    GrammarBuilder,
    in_order,
    object_schema,
    one_of,
    parameter_schemas,
    separated,
    whole_text_regex,
)
from model.text.chat_formats.json_values import dumped, parsed, pass_json
from model.text.chat_formats.reader import Reader, Reading, drop, markers

_CDATA = "<![CDATA["
MAX_PYTHON = 4000  # characters of an argument that is read as Python
_NAME = re.compile(r"(?:functions\.)?([A-Za-z0-9_.:-]+?)(?::\d+)?")  # with the namespace and number of Kimi's


@dataclass(frozen=True, slots=True)
class ParameterTags:
    """A tag for each argument: `open` key `key_close` (`value_open`) value `close`.

    `key_close` may have several spellings, which say whether the value is a text or JSON; None: the schema says it.
    `newlines`: a line break after the key and before `close` is not part of the value. `cdata`: a value may be in a
    CDATA section.
    """

    open: str
    key_close: Mapping[str, bool | None]  # spelling -> whether the value is a text
    close: str
    value_open: str = ""
    newlines: bool = False
    cdata: bool = False

    def grammar(self, build: GrammarBuilder, key: str, schema: Mapping[str, Any]) -> str:
        is_text = set(_types(schema)) == {"string"}
        line = "\n" if self.newlines else ""
        head = build.literal(f"\n{self.open}{key}{self._key_close(is_text)}{self.value_open}{line}")
        if not is_text:
            return f"{head} {build.json(schema)} {build.literal(line + self.close)}"
        values = [each for each in _values(schema) if isinstance(each, str)]
        if values:
            return f"{head} {one_of([build.literal(each + line + self.close) for each in values])}"
        length = f"{{{schema.get('minLength', 0)},{schema.get('maxLength', '')}}}"
        pattern = schema.get("pattern")
        regex = whole_text_regex(pattern) if isinstance(pattern, str) else None
        return f"{head} {build.until(line + self.close, length, regex)}"

    def unwrapped(self, value: str) -> str:
        """The value without what the format puts around it."""
        if self.newlines:
            value = value.removeprefix("\n").removesuffix("\n")
        if self.cdata and value.startswith(_CDATA) and value.endswith("]]>"):
            return value[len(_CDATA) : -3]
        return value

    def _key_close(self, is_text: bool) -> str:
        return next(spelling for spelling, kind in self.key_close.items() if kind in (None, is_text))

    def write(self, key: str, value: Any) -> str:
        is_text = isinstance(value, str)
        text = value if is_text else dumped(value)
        edge = "\n" if self.newlines else ""
        return f"{self.open}{key}{self._key_close(is_text)}{self.value_open}{edge}{text}{edge}{self.close}"


@dataclass(frozen=True, slots=True)
class TaggedCalls:
    """`section` around all calls, then for each: `open` name `name_close` arguments `close`.

    Without `parameters` the arguments are a JSON object.
    """

    open: str
    name_close: tuple[str, ...]
    close: str = ""
    section_open: str = ""
    section_close: str = ""
    parameters: ParameterTags | None = None
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
        own = (*self.opens, *self.closes, *self.name_close, self.id_open, self.id_close)
        tags = self.parameters
        return (*own, tags.open, *tags.key_close, tags.close, tags.value_open) if tags else own

    def write(self, calls: Sequence[tuple[str, Any]]) -> str:
        written = "\n".join(self._written(*call) for call in calls)
        return f"{self.section_open}\n{written}\n{self.section_close}".strip()

    def _written(self, name: str, arguments: Any) -> str:
        head = f"{self.open}{self._named(name)}"
        if self.parameters is None:
            return f"{head}{dumped(arguments)}{self.close}"
        values = arguments if isinstance(arguments, dict) else {}
        return head + "\n".join(self.parameters.write(*each) for each in values.items()) + f"\n{self.close}"

    def grammar(self, build: GrammarBuilder, schemas: Schemas, *, many: bool) -> str:
        """What follows the first marker of the calls, which is that of the section if there is one."""
        line = "\n" if self.parameters else ""
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
        head = build.literal(self._named(name))
        if self.parameters is None:
            return f"{head} {build.json(object_schema(schema))} {build.literal(self.close)}"
        tags = {key: self.parameters.grammar(build, key, each) for key, each in parameter_schemas(schema).items()}
        return f"{head} {in_order(build, tags, schema)} {build.literal(chr(10) + self.close)}"

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
            if not (yield from reader.take_if(self.open)):
                break
        if found and self.section_close:
            yield from reader.take_if(self.section_close)
        return found

    @property
    def _after_name(self) -> tuple[str, ...]:
        """What ends the name without being part of it."""
        return (self.parameters.open, self.close.strip()) if self.parameters else ()

    def _call(self, reader: Reader, sink: FieldSink) -> Reading[bool]:
        name = yield from self._name(reader)
        if name is None:
            return False
        reader.clear_mark()
        sink.begin_call(name)
        yield from reader.space()
        if self.parameters is None:
            yield from pass_json(reader, sink.arguments)
            yield from reader.space()
        else:
            yield from self._parameters(self.parameters, name, reader, sink)
        sink.end_call(was_cut_off=reader.was_cut_off)
        if self.close:
            yield from reader.take_if(self.close.strip())
        return True

    def _name(self, reader: Reader) -> Reading[str | None]:
        """The name, None where the text has none. It ends before the first argument where nothing else ends it."""
        if self.id_close:
            yield from reader.until(markers(self.id_close), drop)
        pieces: list[str] = []
        ends = (*self.name_close, *self._after_name, *filter(None, (self.id_open,)))
        end = yield from reader.until(markers(*ends), pieces.append)
        if end is None:
            return None
        if end == self.id_open:
            yield from reader.until(markers(*self.name_close), drop)
        elif end in self._after_name:
            reader.unread(len(end))
        named = _NAME.fullmatch("".join(pieces).strip())
        return None if named is None else named[1]

    def _parameters(self, tags: ParameterTags, name: str, reader: Reader, sink: FieldSink) -> Reading[None]:
        separator = "{"
        properties = sink.schemas.get(name, {}).get("properties")
        properties = properties if isinstance(properties, dict) else {}
        while (yield from reader.take_if(tags.open)):
            parameter = yield from self._parameter(tags, reader)
            if parameter is None:
                return
            key, value, is_text = parameter
            written = value if is_text else cast(value, properties.get(key), is_json=is_text is False)
            sink.arguments(f"{separator}{dumped(key)}: {dumped(written)}")
            separator = ", "
            yield from reader.space()
        if separator != "{" and not reader.is_exhausted:
            sink.arguments("}")

    def _parameter(self, tags: ParameterTags, reader: Reader) -> Reading[tuple[str, str, bool | None] | None]:
        """Key, value and whether it is a text; None where it is cut off."""
        key: list[str] = []
        key_end = yield from reader.until(markers(*tags.key_close), key.append)
        if key_end is None:
            return None
        if tags.value_open:
            yield from reader.space()
            yield from reader.take_if(tags.value_open)
        value = yield from self._value(tags, reader)
        return None if value is None else ("".join(key).strip(), value, tags.key_close[key_end])

    def _value(self, tags: ParameterTags, reader: Reader) -> Reading[str | None]:
        """The text up to the closing tag that another argument or the end of the call follows: values may have tags."""
        pieces: list[str] = []
        following = (tags.open, self.close.strip())
        while (yield from reader.until(markers(tags.close), pieces.append)) is not None:
            space = yield from reader.space()
            is_last = reader.is_exhausted and not reader.was_cut_off
            if is_last or (yield from reader.goes_on_with(*following)):
                return tags.unwrapped("".join(pieces))
            pieces.append(tags.close + space)
        return None


def cast(text: str, schema: Any, *, is_json: bool = False) -> Any:
    """The value of an argument that was written as plain text, by the schema of the parameter."""
    types = set(_types(schema))
    if not is_json and types == {"string"}:
        return text
    value = parsed(text.strip())
    if value is None:
        value = _python_value(text.strip(), text)
    if not is_json and "string" in types and not _is_of(value, types - {"string"}):
        return text
    return value


_PYTHON: Mapping[str, Any] = {"True": True, "False": False, "None": None, "null": None}
_CLASSES: Mapping[str, tuple[type, ...]] = {
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


def _python_value(text: str, otherwise: str) -> Any:
    """Templates that write lists and objects as Python's `str` teach models to do so."""
    if text in _PYTHON:
        return _PYTHON[text]
    if text[:1] not in ("{", "[") or len(text) > MAX_PYTHON:
        return otherwise
    try:
        value = ast.literal_eval(text)
        dumped(value)
        return value
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return otherwise


def _is_of(value: Any, types: set[str]) -> bool:
    classes = tuple(each for name in types for each in _CLASSES.get(name, ()))
    return isinstance(value, classes) and not (isinstance(value, bool) and "boolean" not in types)


def _types(schema: Any) -> list[str]:
    """The JSON types that a schema names, also in its alternatives."""
    if not isinstance(schema, dict):
        return []
    own = schema.get("type")
    types = [each for each in (own if isinstance(own, list) else [own]) if isinstance(each, str)]
    values = _values(schema)
    if values and all(isinstance(each, str) for each in values):
        types.append("string")
    for key in ("anyOf", "oneOf"):
        choices = schema.get(key)
        types += [each for choice in (choices if isinstance(choices, list) else ()) for each in _types(choice)]
    return types


def _values(schema: Mapping[str, Any]) -> list[Any]:
    """The only values that a schema allows; empty if it does not name them."""
    if "const" in schema:
        return [schema["const"]]
    return schema["enum"] if isinstance(schema.get("enum"), list) else []
