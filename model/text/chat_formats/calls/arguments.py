"""How the arguments of one call are written: as a JSON object, or with a tag for each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from model.text.chat_formats.calls.plain_values import cast, plain_text, property_schema, schema_types, value_grammar
from model.text.chat_formats.grammar import GrammarBuilder, in_order
from model.text.chat_formats.json_values import dumped, pass_object
from model.text.chat_formats.reader import Emit, Reader, Reading, markers
from model.text.chat_formats.schema_parts import Schema, object_schema, parameter_schemas

_CDATA = "<![CDATA["


class CallTags(Protocol):
    """The tag that ends a call, and those around all calls; empty: there is none."""

    @property
    def close(self) -> str: ...

    @property
    def section_open(self) -> str: ...

    @property
    def section_close(self) -> str: ...


class Arguments(Protocol):
    """What stands between the name of a call and the text `close` that ends the call."""

    @property
    def line(self) -> str:
        """White space between calls and the tags around them."""

    @property
    def opens(self) -> tuple[str, ...]:
        """Texts that begin the first argument where nothing else ends the name."""

    @property
    def markers(self) -> tuple[str, ...]: ...

    def write(self, arguments: Any, close: str) -> str: ...

    def grammar(self, build: GrammarBuilder, schema: Schema, close: str) -> str: ...

    def read(self, schema: Schema, tags: CallTags, reader: Reader, emit: Emit) -> Reading[bool]:
        """Pass the arguments on as the text of a JSON object, without the tag after them.

        False where they are broken or not there: the rest of the call belongs to them too.
        """


class JsonArguments:
    """A JSON object, which is passed on as it comes."""

    line = ""
    opens: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()

    def write(self, arguments: Any, close: str) -> str:
        return dumped(arguments) + close

    def grammar(self, build: GrammarBuilder, schema: Schema, close: str) -> str:
        return f"{build.json(object_schema(schema))} {build.literal(close)}"

    def read(self, schema: Schema, tags: CallTags, reader: Reader, emit: Emit) -> Reading[bool]:
        return (yield from pass_object(reader, emit))


@dataclass(frozen=True, slots=True)
class ParameterTags:
    """A tag for each argument: `open` key `key_close` (`value_open`) value `close`. Each is passed on when it is whole.

    One that the model does not close is passed on as it was written, so that the arguments are no JSON.

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

    @property
    def line(self) -> str:
        return "\n"

    @property
    def opens(self) -> tuple[str, ...]:
        return (self.open,)

    @property
    def markers(self) -> tuple[str, ...]:
        return (self.open, *self.key_close, self.close, self.value_open)

    def write(self, arguments: Any, close: str) -> str:
        values = arguments if isinstance(arguments, dict) else {}
        return "\n".join(self._written(*each) for each in values.items()) + self.line + close

    def grammar(self, build: GrammarBuilder, schema: Schema, close: str) -> str:
        tags = {key: self._tag_grammar(build, key, each) for key, each in parameter_schemas(schema).items()}
        return f"{in_order(build, tags, schema)} {build.literal(self.line + close)}"

    def read(self, schema: Schema, tags: CallTags, reader: Reader, emit: Emit) -> Reading[bool]:
        separator = "{"
        reader.set_mark()
        while (yield from reader.take_if(self.open)):
            parameter = yield from self._parameter(tags, reader)
            if parameter is None:
                broken = reader.take_marked()
                emit("" if reader.was_cut_off else broken)
                return False
            key, value, is_text = parameter
            written = value if is_text else cast(value, property_schema(schema, key), is_json=is_text is False)
            emit(f"{separator}{dumped(key)}: {dumped(written)}")
            separator = ", "
            yield from reader.space()
            reader.set_mark()
        reader.clear_mark()
        if separator != "{" and not reader.was_cut_off:
            emit("}")
        return separator != "{"

    def _written(self, key: str, value: Any) -> str:
        edge = "\n" if self.newlines else ""
        key_close = self._key_close(isinstance(value, str))
        return f"{self.open}{key}{key_close}{self.value_open}{edge}{plain_text(value)}{edge}{self.close}"

    def _tag_grammar(self, build: GrammarBuilder, key: str, schema: Schema) -> str:
        edge = "\n" if self.newlines else ""
        key_close = self._key_close(schema_types(schema) == {"string"})
        head = build.literal(f"{self.line}{self.open}{key}{key_close}{self.value_open}{edge}")
        return f"{head} {value_grammar(build, schema, edge + self.close)}"

    def _key_close(self, is_text: bool) -> str:
        return next(spelling for spelling, kind in self.key_close.items() if kind in (None, is_text))

    def _parameter(self, tags: CallTags, reader: Reader) -> Reading[tuple[str, str, bool | None] | None]:
        """Key, value and whether it is a text; None where it is not closed."""
        key: list[str] = []
        key_end = yield from reader.until(markers(*self.key_close), key.append)
        if key_end is None:
            return None
        if self.value_open:
            yield from reader.space()
            yield from reader.take_if(self.value_open)
        value = yield from self._value(tags, reader)
        return None if value is None else ("".join(key).strip(), value, self.key_close[key_end])

    def _value(self, tags: CallTags, reader: Reader) -> Reading[str | None]:
        """The text up to the closing tag that is not part of it: values may have tags."""
        pieces: list[str] = []
        while (yield from reader.until(markers(self.close), pieces.append)) is not None:
            space = yield from reader.space()
            if (yield from self._ends_value(tags, reader)):
                return self._unwrapped("".join(pieces))
            pieces.append(self.close + space)
        return None

    def _ends_value(self, tags: CallTags, reader: Reader) -> Reading[bool]:
        """Whether another argument or the end of the call follows a closing tag.

        Models forget to close calls: the end of all calls ends the call too, before others and at the end of the text.
        """
        if (yield from reader.goes_on_with(self.open, tags.close)):
            return True
        start = reader.offset
        closed = tags.section_close and (yield from reader.take_if(tags.section_close))
        yield from reader.space()
        others = closed and (yield from reader.goes_on_with(tags.section_open))
        is_end = others or (reader.is_exhausted and not reader.was_cut_off)
        reader.unread(reader.offset - start)
        return bool(is_end)

    def _unwrapped(self, value: str) -> str:
        """The value without what the format puts around it."""
        if self.newlines:
            value = value.removeprefix("\n").removesuffix("\n")
        if self.cdata and value.startswith(_CDATA) and value.endswith("]]>"):
            return value[len(_CDATA) : -3]
        return value
