"""JSON schemas as llguidance takes them: bounded, without annotations, refused by name where it would be wrong.

An answer must be valid by JSON Schema (draft 4 to 2020-12). What llguidance enforces is kept; keywords that say nothing
about validity are dropped; keywords that do, but that llguidance does not know, are refused.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from model.text.chat_formats.json_values import is_deeper

MAX_SCHEMA = 200_000  # characters, without annotations
MAX_DEPTH = 64  # llguidance reads 128 levels of JSON
MAX_LEVELS = 256  # of JSON, values of `const` and annotations included: json.dumps follows them by recursion
MAX_INTEGER = 2**53 - 1  # what all JSON parsers read exactly; without a bound, small models write digits for ever
MAX_STRING = 4096  # characters that an answer may have to repeat; forcing that many takes about 50 ms
MAX_PROPERTIES = 500  # of one object; the time to compile optional ones grows with the square of their number
MAX_ALTERNATIVES = 500
MAX_DEFINITIONS = 1000  # they may refer to each other in a chain, which is followed by recursion

_OF_NAMES = ("$defs", "definitions", "properties", "patternProperties")
_OF_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_OF_ONE = ("items", "additionalItems", "additionalProperties")
_ASSERTIONS = (
    *("type", "enum", "const", "required", "minItems", "maxItems", "minProperties", "maxProperties", "minLength"),
    *("maxLength", "pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
)
_BOUNDS = frozenset(("enum", "const", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"))
_REFERENCES = ("$ref", "$schema", "$id", "id", "$anchor")
_KEPT = frozenset((*_OF_NAMES, *_OF_LISTS, *_OF_ONE, *_ASSERTIONS, *_REFERENCES))
_DEFINITIONS = frozenset(("$defs", "definitions"))
_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {  # and the values that say nothing
    "not": (False,),
    "if": (),
    "uniqueItems": (False,),
    "contains": (),
    "propertyNames": (True, {}, {"type": "string"}),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
    "dependencies": ({},),
    "unevaluatedItems": (True, {}),
    "unevaluatedProperties": (True, {}),
    "$dynamicRef": (),
    "$recursiveRef": (),
}
_SHAPES: Mapping[str, tuple[type, str]] = {
    **dict.fromkeys(_OF_NAMES, (dict, "an object")),
    **dict.fromkeys(("required", "enum", *_OF_LISTS), (list, "a list")),
    **dict.fromkeys(("minLength", "maxLength"), (int, "an integer")),
    "format": (str, "a string"),
}
_ENFORCED_FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
)
_OTHER_FORMATS = frozenset(  # that JSON Schema defines; those of other standards are annotations
    ("idn-email", "idn-hostname", "uri-reference", "iri", "iri-reference", "uri-template", "json-pointer")
) | {"relative-json-pointer", "regex"}
_SEPARATORS = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}  # those of json.dumps


class SchemaError(ValueError):
    """A schema that cannot be used. `place` is the path of the part that is wrong; empty: the whole."""

    def __init__(self, message: str, place: str = "") -> None:
        super().__init__(message)
        self.place = place


def constrained_schema(schema: Any) -> dict[str, Any]:
    """The schema for llguidance. Raises SchemaError for one that is not a schema, too large or not supported.

    Answers are written on one line, as Python's json.dumps writes them. An object that names its properties has no
    others unless the schema mentions `additionalProperties`: models would go on inventing some, and an answer without
    them is as valid. An integer without bounds gets those of exact JSON numbers. Schemas that combine several in one
    place are left as they are, since one may name what another requires.
    """
    if is_deeper(schema, MAX_LEVELS):
        raise SchemaError(f"a schema can have at most {MAX_LEVELS} levels of JSON")
    checked = [subschema for _, subschema in _checked(schema)]
    close = not any(_combines(subschema) for subschema in checked)
    written = _written(schema, close=close) if isinstance(schema, dict) else {}
    if len(json.dumps(written, ensure_ascii=False)) > MAX_SCHEMA:
        raise SchemaError(f"the schema is too large: give at most {MAX_SCHEMA:,} characters")
    return written | {"x-guidance": _SEPARATORS}


def subschemas(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The schemas directly in a schema, each with its path in it."""
    for keyword in _OF_NAMES:
        if isinstance(named := schema.get(keyword), dict):
            yield from ((f"{keyword}.{name}", each) for name, each in named.items())
    for keyword in (*_OF_LISTS, "items"):
        if isinstance(listed := schema.get(keyword), list):
            yield from ((f"{keyword}.{index}", each) for index, each in enumerate(listed))
    yield from ((keyword, schema[keyword]) for keyword in _OF_ONE if not isinstance(schema.get(keyword, []), list))


def _checked(schema: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """All schemas in a schema, itself included, with their paths. Raises SchemaError for what is wrong in one."""
    waiting: list[tuple[str, Any, int]] = [("", schema, 1)]
    definitions = 0
    while waiting:
        place, each, depth = waiting.pop()
        if isinstance(each, bool) and depth > 1:
            continue
        if not isinstance(each, dict):
            raise SchemaError("a schema is an object", place)
        if depth > MAX_DEPTH:
            raise SchemaError(f"schemas can be at most {MAX_DEPTH} levels deep", place)
        definitions += sum(len(each[name]) for name in _DEFINITIONS if isinstance(each.get(name), dict))
        if definitions > MAX_DEFINITIONS:
            raise SchemaError(f"a schema can have at most {MAX_DEFINITIONS} definitions", place)
        _check(each, place)
        waiting += [(_join(place, path), inner, depth + 1) for path, inner in subschemas(each)]
        yield place, each


def _check_shapes(schema: Mapping[str, Any], place: str) -> None:
    for keyword, (shape, name) in _SHAPES.items():
        if not isinstance(schema.get(keyword, shape()), shape):
            raise SchemaError(f"`{keyword}` has to be {name}", _join(place, keyword))
    if not all(isinstance(name, str) for name in schema.get("required", ())):
        raise SchemaError("`required` has to be a list of names", _join(place, "required"))


def _check(schema: Mapping[str, Any], place: str) -> None:
    _check_shapes(schema, place)
    for keyword, neutral in _UNSUPPORTED.items():
        if keyword in schema and schema[keyword] not in neutral:
            if keyword == "if" and not ("then" in schema or "else" in schema):
                continue
            raise SchemaError(f"`{keyword}` is not supported here", _join(place, keyword))
    if schema.get("format") in _OTHER_FORMATS:
        raise SchemaError(f"the format `{schema['format']}` is not supported here", _join(place, "format"))
    if schema.get("minProperties") not in (None, 0, 1) and not _is_implied(schema):  # names may come twice
        raise SchemaError("more than 1 is only supported where as many are required", _join(place, "minProperties"))
    for keyword, limit in (("properties", MAX_PROPERTIES), ("anyOf", MAX_ALTERNATIVES), ("oneOf", MAX_ALTERNATIVES)):
        if isinstance(found := schema.get(keyword), dict | list) and len(found) > limit:
            raise SchemaError(f"{len(found)} are too many: give at most {limit}", _join(place, keyword))
    values = [("const", schema["const"])] if "const" in schema else []
    if isinstance(listed := schema.get("enum"), list):
        values += [(f"enum.{index}", value) for index, value in enumerate(listed)]
    for path, value in [*values, *((f"properties.{name[:64]}", name) for name in _names(schema))]:
        if len(json.dumps(value)) > MAX_STRING:
            raise SchemaError(f"this is too long: give at most {MAX_STRING} characters", _join(place, path))


def _is_implied(schema: Mapping[str, Any]) -> bool:
    """Whether `minProperties` follows from `required`."""
    required, least = schema.get("required"), schema["minProperties"]
    return isinstance(required, list) and isinstance(least, int) and len(set(required)) >= least


def _names(schema: Mapping[str, Any]) -> list[str]:
    properties, required = schema.get("properties"), schema.get("required")
    return [
        *(properties if isinstance(properties, dict) else ()),
        *(required if isinstance(required, list) else ()),
    ]


def _combines(schema: Mapping[str, Any]) -> bool:
    """Whether several schemas must hold for the same value."""
    others = schema.keys() & (_KEPT - _DEFINITIONS - {"$schema", "$id", "id", "$anchor"})
    return "allOf" in others or (bool(others & {"anyOf", "oneOf", "$ref"}) and len(others) > 1)


def _written(schema: Any, *, close: bool) -> Any:
    """A copy with the kept keywords alone."""
    if not isinstance(schema, dict):
        return schema
    written = {keyword: value for keyword, value in schema.items() if keyword in _KEPT}
    if written.get("format") not in _ENFORCED_FORMATS:
        written.pop("format", None)
    if "minProperties" in written and _is_implied(written):
        del written["minProperties"]
    for keyword, value in written.items():
        if keyword in _OF_NAMES and isinstance(value, dict):
            written[keyword] = {name: _written(each, close=close) for name, each in value.items()}
        elif isinstance(value, list) and (keyword in _OF_LISTS or keyword == "items"):
            written[keyword] = [_written(each, close=close) for each in value]
        elif keyword in _OF_ONE:
            written[keyword] = _written(value, close=close)
    if close and _can_be_closed(written):
        written["additionalProperties"] = False
    if close and written.get("type") == "integer" and not written.keys() & _BOUNDS:
        written |= {"minimum": -MAX_INTEGER, "maximum": MAX_INTEGER}
    return written


def _can_be_closed(schema: Mapping[str, Any]) -> bool:
    properties, required = schema.get("properties"), schema.get("required", [])
    if not isinstance(properties, dict) or not properties or not isinstance(required, list):
        return False
    open_ended = schema.keys() & {"additionalProperties", "patternProperties", "minProperties"}
    return not open_ended and all(name in properties for name in required)


def _join(place: str, path: str) -> str:
    return f"{place}.{path}" if place else path
