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
_STRING_OR_NAME = re.compile(f"{_STRING.pattern}|{_NAME}", re.DOTALL | re.ASCII)
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

    Positional arguments are those of the first parameters in the schema; what is beyond them has no name.
    """
    try:
        if len(_STRING.sub("", text)) > MAX_SYNTAX:
            return []
        tree = ast.parse(_STRING_OR_NAME.sub(_as_python, text.strip()), mode="eval").body
        calls = tree.elts if isinstance(tree, ast.List | ast.Tuple) else [tree]
        found = [(_name(call), call) for call in calls if isinstance(call, ast.Call)]
        return [(name, dumped(_arguments(call, schemas.get(name, {})))) for name, call in found]
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return []


def _as_python(found: re.Match[str]) -> str:
    """Names in quotes, since tools have names that Python has not; strings without the line breaks of templates."""
    return f'"{found["name"]}"' if found["name"] else found[0].replace("\n", "\\n")


def _call_grammar(build: GrammarBuilder, name: str, schema: Mapping[str, Any]) -> str:
    """Values are JSON, which is read too."""
    keywords = {
        key: f"{build.literal(f'{key}=')} {json_grammar(build, each)}"
        for key, each in parameter_schemas(schema).items()
    }
    listed = in_order(build, keywords, schema, build.literal(", "))
    return f"{build.literal(f'{name}(')} {listed} {build.literal(')')}"


def _keywords(arguments: Any) -> str:
    values = arguments if isinstance(arguments, dict) else {}
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def _name(call: ast.Call) -> str:
    return str(call.func.value) if isinstance(call.func, ast.Constant) else ast.unparse(call.func)


def _arguments(call: ast.Call, schema: Mapping[str, Any]) -> dict[str, Any]:
    arguments = dict(zip(property_schemas(schema), map(_value, call.args), strict=False))
    for keyword in call.keywords:
        value = _value(keyword.value)
        arguments |= value if keyword.arg is None else {keyword.arg: value}  # None: `**` before an object
    return arguments


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
