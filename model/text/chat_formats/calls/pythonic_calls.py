"""Calls as a list of Python calls with keyword arguments: `[f(x=1), g()]`. They are read when the list is complete."""

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.text.chat_formats.calls.json_grammar import json_grammar
from model.text.chat_formats.calls.plain_values import property_schemas
from model.text.chat_formats.fields import FieldSink, Schemas
from model.text.chat_formats.grammar import GrammarBuilder, in_order, one_of, separated
from model.text.chat_formats.json_values import dumped
from model.text.chat_formats.reader import Reader, Reading, markers
from model.text.chat_formats.schema_parts import parameter_schemas

_CONSTANTS: Mapping[str, Any] = {"true": True, "false": False, "null": None}
_STRING = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_NAME = r"(?<![\w.:-])(?P<name>[\w.:-]+)(?=\()"
_KEY = r"""(?<=[(,])(?P<key>[^'"()\[\]{},=]++)=(?!=)"""
_TOKENS = re.compile(f"{_STRING.pattern}|{_NAME}|{_KEY}", re.DOTALL | re.ASCII)
_HEX = "k"  # before a key in hexadecimal
_PLAIN_KEY = re.compile(r"""(?!\s)[^'"()\[\]{},=]+(?<!\s)""")
MAX_SYNTAX = 4000  # characters of the calls outside of strings; Python's parser takes about 5 us for each


@dataclass(frozen=True, slots=True)
class PythonicCalls:
    open: str
    close: str

    @property
    def opens(self) -> tuple[str, ...]:
        return (self.open,)

    @property
    def closes(self) -> tuple[str, ...]:
        return (self.close,)

    @property
    def markers(self) -> tuple[str, ...]:
        return (self.open, self.close)

    def write(self, calls: Sequence[tuple[str, Any]]) -> str:
        written = (f"{name}({_keywords(arguments)})" for name, arguments in calls)
        return f"{self.open}[{', '.join(written)}]{self.close}"

    def grammar(self, build: GrammarBuilder, schemas: Schemas, *, many: bool) -> str:
        call = build.rule(one_of([_call_grammar(build, *each) for each in schemas.items()]))
        listed = separated(call, build.literal(", "), many=many)
        return f"{build.literal('[')} {listed} {build.literal(']' + self.close)}"

    def read(self, opened: str, reader: Reader, sink: FieldSink) -> Reading[bool]:
        """Read what follows `open`. False where there is no call."""
        pieces: list[str] = []
        if (yield from reader.until(markers(self.close), pieces.append)) is None and reader.was_cut_off:
            return False
        calls = parsed_calls("".join(pieces), sink.schemas)
        if calls:
            reader.clear_mark()
        for name, arguments in calls:
            sink.begin_call(name)
            sink.arguments(arguments)
            sink.end_call()
        return bool(calls)


def parsed_calls(text: str, schemas: Schemas) -> list[tuple[str, str]]:
    """Names, and arguments as JSON; empty if the text is not a list of calls. JSON's constants are understood too.

    Positional arguments are those of the first parameters in the schema.
    """
    try:
        if len(_STRING.sub("", text)) > MAX_SYNTAX:
            return []
        tree = ast.parse(_TOKENS.sub(_as_python, text.strip()), mode="eval").body
        calls = tree.elts if isinstance(tree, ast.List | ast.Tuple) else [tree]
        found = [(_name(call), call) for call in calls if isinstance(call, ast.Call)]
        return [(name, dumped(_arguments(call, schemas.get(name, {})))) for name, call in found]
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return []


def _as_python(found: re.Match[str]) -> str:
    """Names in quotes and keys in hexadecimal, since tools have others than Python; strings without line breaks."""
    if found["key"]:
        return f"{_HEX}{found['key'].strip().encode().hex()}="
    return f'"{found["name"]}"' if found["name"] else found[0].replace("\n", "\\n")


def _call_grammar(build: GrammarBuilder, name: str, schema: Mapping[str, Any]) -> str:
    """Values are JSON, which is read too."""
    keywords = {
        key: f"{build.literal(before)} {json_grammar(build, each)} {build.literal(after)}"
        for key, each in parameter_schemas(schema).items()
        for before, after in [_around_value(key)]
    }
    listed = in_order(build, keywords, schema, build.literal(", "))
    return f"{build.literal(f'{name}(')} {listed} {build.literal(')')}"


def _keywords(arguments: Any) -> str:
    values = arguments if isinstance(arguments, dict) else {}
    return ", ".join(f"{value!r}".join(_around_value(key)) for key, value in values.items())


def _around_value(key: str) -> tuple[str, str]:
    """What stands before and after the value of an argument. A key that would be misread is written in an object."""
    return (f"{key}=", "") if _PLAIN_KEY.fullmatch(key) else (f"**{{{key!r}: ", "}")


def _name(call: ast.Call) -> str:
    return str(call.func.value) if isinstance(call.func, ast.Constant) else ast.unparse(call.func)


def _arguments(call: ast.Call, schema: Mapping[str, Any]) -> dict[str, Any]:
    """ValueError if there are more values than names for them."""
    names = list(property_schemas(schema))[: len(call.args)]
    arguments = dict(zip(names, map(_value, call.args), strict=True))
    for keyword in call.keywords:
        value = _value(keyword.value)
        arguments |= value if keyword.arg is None else {_key(keyword.arg): value}  # None: `**` before an object
    return arguments


def _key(written: str) -> str:
    return bytes.fromhex(written.removeprefix(_HEX)).decode()


def _value(node: ast.expr) -> Any:
    """ValueError for what is not a literal, or cannot be written as JSON."""
    if isinstance(node, ast.Name) and node.id in _CONSTANTS:
        return _CONSTANTS[node.id]
    if isinstance(node, ast.Dict):
        keys = [_value(key) for key in node.keys if key is not None]
        return {str(key): _value(value) for key, value in zip(keys, node.values, strict=True)}
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(each) for each in node.elts]
    value = ast.literal_eval(node)
    if not isinstance(value, str | int | float | bool | None):
        raise ValueError(f"{value!r} is not JSON")
    return value
