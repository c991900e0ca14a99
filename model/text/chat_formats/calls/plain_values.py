"""Values between tags: texts as they are, everything else as JSON, told apart by the schema of the parameter."""

import ast
from collections.abc import Mapping
from typing import Any

from model.text.chat_formats.calls.json_grammar import json_grammar
from model.text.chat_formats.grammar import GrammarBuilder, one_of, whole_text_regex
from model.text.chat_formats.json_values import dumped, parsed
from model.text.chat_formats.schema_parts import alternatives, only_chooses, part, resolved

MAX_PYTHON = 4000  # characters of an argument that is read as Python
_PYTHON: Mapping[str, Any] = {"True": True, "False": False, "None": None, "null": None}
_CLASSES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


def plain_text(value: Any) -> str:
    """A value as it is written between tags."""
    return value if isinstance(value, str) else dumped(value)


def cast(text: str, schema: Any, *, is_json: bool = False) -> Any:
    """The value of an argument that was written as plain text, by the schema of the parameter.

    A text in quotes is JSON where the schema allows more than texts: grammars write such values so.
    """
    types = schema_types(schema)
    if not is_json and types == {"string"}:
        return text
    value = parsed(text.strip())
    if value is None:
        value = _python_value(text.strip(), text)
    if not is_json and "string" in types and not _is_of(value, types):
        return text
    return value


def value_grammar(build: GrammarBuilder, schema: Mapping[str, Any], close: str) -> str:
    """A value that follows the schema, and the text that closes it."""
    if schema_types(schema) != {"string"}:
        return f"{json_grammar(build, schema)} {build.literal(close)}"
    return text_grammar(build, schema, close)


def text_grammar(build: GrammarBuilder, schema: Mapping[str, Any], close: str) -> str:
    """A text that follows the schema of a string, and the text that closes it."""
    first, *others = alternatives(schema)
    if not only_chooses(first):
        return _one_text(build, first, close)
    return one_of([_one_text(build, each, close) for each in others if not only_chooses(each)])


def _one_text(build: GrammarBuilder, schema: Mapping[str, Any], close: str) -> str:
    values = [each for each in _values(schema) if isinstance(each, str)]
    if values:
        return build.rule(one_of([build.literal(each + close) for each in values]))
    length = f"{{{schema.get('minLength', 0)},{schema.get('maxLength', '')}}}"
    pattern = schema.get("pattern")
    regex = whole_text_regex(pattern) if isinstance(pattern, str) else None
    return build.until(close, length, regex)


def schema_types(schema: Any) -> set[str]:
    """The JSON types that a schema names, also in its alternatives."""
    return set().union(*map(_own_types, alternatives(schema))) if isinstance(schema, dict) else set()


def _own_types(schema: Mapping[str, Any]) -> set[str]:
    own, values = schema.get("type"), _values(schema)
    types = {each for each in (own if isinstance(own, list) else [own]) if isinstance(each, str)}
    return types | {"string"} if values and all(isinstance(each, str) for each in values) else types


def property_schemas(schema: Any) -> Mapping[str, Any]:
    """The schemas of an object's properties, as far as a schema names any."""
    properties = schema.get("properties") if isinstance(schema, dict) else None
    return properties if isinstance(properties, dict) else {}


def property_schema(schema: Any, name: str) -> Mapping[str, Any]:
    """The schema of one of an object's properties; empty if the schema has none for it."""
    whole = resolved(schema) if isinstance(schema, dict) else {}
    return part(property_schemas(whole).get(name), whole)


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


def _values(schema: Mapping[str, Any]) -> list[Any]:
    """The only values that a schema allows; empty if it does not name them."""
    if "const" in schema:
        return [schema["const"]]
    return schema["enum"] if isinstance(schema.get("enum"), list) else []
