"""Arguments as XML elements that are named after the parameters; objects and lists are elements in elements.

    ]<]minimax[>[<city>Paris]<]minimax[>[</city>]<]minimax[>[<tags>]<]minimax[>[<item>a]<]minimax[>[</item> ...

Every tag has the same prefix, so values may have markup of their own. The items of a list are elements named `item`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from model.text.chat_formats.calls.arguments import CallTags
from model.text.chat_formats.calls.plain_values import cast, plain_text, property_schema, schema_types, value_grammar
from model.text.chat_formats.grammar import (
    GrammarBuilder,
    in_order,
    repeated,
)
from model.text.chat_formats.json_values import MAX_DEPTH, dumped
from model.text.chat_formats.reader import Emit, Reader, Reading, markers
from model.text.chat_formats.schema_parts import Schema, item_schema, member_schemas, parameter_schemas, part, resolved

_ITEM = "item"


@dataclass(frozen=True, slots=True)
class XmlArguments:
    """`prefix` is before each tag, those of the call included. An argument is passed on when its element is closed.

    One that the model does not close is passed on as it was written, so that the arguments are no JSON.
    """

    prefix: str

    @property
    def line(self) -> str:
        return "\n"

    @property
    def opens(self) -> tuple[str, ...]:
        return (f"{self.prefix}<",)

    @property
    def markers(self) -> tuple[str, ...]:
        return (self.prefix,)

    def write(self, arguments: Any, close: str) -> str:
        return self._written(arguments if isinstance(arguments, dict) else {}) + close

    def grammar(self, build: GrammarBuilder, schema: Schema, close: str) -> str:
        return f"{self._elements_grammar(build, parameter_schemas(schema), schema)} {build.literal(close)}".strip()

    def read(self, schema: Schema, tags: CallTags, reader: Reader, emit: Emit) -> Reading[bool]:
        opened, closed, separator = f"{self.prefix}<", f"{self.prefix}</", "{"
        reader.set_mark()
        while (tag := (yield from reader.take_if(opened, closed))) == opened:
            element = yield from self._element(reader)
            if element is None:
                broken = reader.take_marked()
                emit("" if reader.was_cut_off else broken)
                return False
            value = element.value(property_schema(schema, element.name))
            emit(f"{separator}{dumped(element.name)}: {dumped(value)}")
            separator = ", "
            yield from reader.space()
            reader.set_mark()
        reader.clear_mark()
        if tag == closed:
            yield from _tag_name(reader)
        if separator != "{" and (tag == closed or not reader.was_cut_off):
            emit("}")
        return tag == closed or separator != "{"

    def _element(self, reader: Reader) -> Reading["_Element | None"]:
        """An element after the beginning of its tag; None where it is cut off.

        A closing tag closes the innermost element, whatever its name is.
        """
        path = [_Element((yield from _tag_name(reader)))]
        tags = markers(f"{self.prefix}<", f"{self.prefix}</")
        while len(path) <= MAX_DEPTH:
            tag = yield from reader.until(tags, path[-1].text.append)
            name = yield from _tag_name(reader)
            if tag is None or reader.was_cut_off:
                return None
            if not tag.endswith("/"):
                path.append(path[-1].child(name))
            elif len(path) > 1:
                path.pop()
            else:
                return path[0]
        return None

    def _written(self, value: Any) -> str:
        if isinstance(value, dict):
            return "".join(self._written_element(name, each) for name, each in value.items())
        if isinstance(value, list):
            return "".join(self._written_element(_ITEM, each) for each in value)
        return plain_text(value)

    def _written_element(self, name: str, value: Any) -> str:
        return f"{self.prefix}<{name}>{self._written(value)}{self.prefix}</{name}>"

    def _elements_grammar(self, build: GrammarBuilder, members: Mapping[str, Schema], schema: Schema) -> str:
        elements = {name: self._element_grammar(build, name, each) for name, each in members.items()}
        return in_order(build, elements, schema)

    def _element_grammar(self, build: GrammarBuilder, name: str, schema: Schema) -> str:
        """Objects and lists that their schemas describe are elements; others are JSON, which is read too."""
        members, item = member_schemas(schema), item_schema(schema)
        if members is not None:
            value = f"{self._elements_grammar(build, members, schema)} {build.literal(self.prefix)}"
        elif item is not None:
            items = repeated(self._element_grammar(build, _ITEM, item), "", schema)
            value = f"{items} {build.literal(self.prefix)}"
        else:
            value = value_grammar(build, schema, self.prefix)
        return build.rule(f"{build.literal(f'{self.prefix}<{name}>')} {value} {build.literal(f'</{name}>')}")


@dataclass(slots=True)
class _Element:
    name: str
    text: list[str] = field(default_factory=list)  # in pieces
    children: list["_Element"] = field(default_factory=list)

    def child(self, name: str) -> "_Element":
        self.children.append(_Element(name))
        return self.children[-1]

    def value(self, schema: Schema) -> Any:
        schema = resolved(schema)
        types = schema_types(schema)
        if not self.children:
            return _leaf("".join(self.text), types, schema)
        text = "".join(self.text).strip()  # there is none beside elements, unless one was not closed
        if {child.name for child in self.children} == {_ITEM} and "object" not in types and not text:
            item = part(schema.get("items"), schema)
            return [child.value(item) for child in self.children]
        members = {child.name: child.value(property_schema(schema, child.name)) for child in self.children}
        return members | {"#text": text} if text else members


def _leaf(text: str, types: set[str], schema: Schema) -> Any:
    """A value without elements: empty lists and objects have none either."""
    if text or "string" in types:
        return cast(text, schema)
    return [] if "array" in types else {} if "object" in types else text


def _tag_name(reader: Reader) -> Reading[str]:
    pieces: list[str] = []
    yield from reader.until(markers(">"), pieces.append)
    return "".join(pieces).strip()
