"""JSON schemas taken apart, for grammars that write an object or a list part by part.

A part is a schema of its own, with the definitions of the whole if it refers to any.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

Schema = Mapping[str, Any]

_DEFINITIONS = ("$defs", "definitions")
_CHOICES = ("anyOf", "oneOf")
_REFERENCE = re.compile(r'"\$ref": ("(?:[^"\\]|\\.)*")')
_POINTER = re.compile(r"#/(\$defs|definitions)/([^/]*)(/.*)?", re.DOTALL)
_ANNOTATIONS = frozenset(("title", "description", "default", "examples", *_DEFINITIONS))
_OF_OBJECTS = _ANNOTATIONS | {"type", "properties", "required", "additionalProperties"}
_OF_LISTS = _ANNOTATIONS | {"type", "items", "minItems", "maxItems"}
_MAX_ITEMS = 1000  # of a list that is written item by item


def object_schema(schema: Schema) -> dict[str, Any]:
    """The schema of a tool's arguments, which are an object also where it does not say so."""
    return {"type": "object", "properties": {}, **schema}


def parameter_schemas(schema: Schema) -> dict[str, dict[str, Any]]:
    """The schema of each parameter."""
    properties = schema.get("properties", {})
    return {name: part(each, schema) for name, each in properties.items()}


def member_schemas(schema: Schema) -> dict[str, dict[str, Any]] | None:
    """The schemas of an object's members if they say all about it; None for anything else."""
    members, required = schema.get("properties") or {}, set(schema.get("required", ()))
    is_described = schema.get("type") == "object" and schema.keys() <= _OF_OBJECTS and required <= members.keys()
    return parameter_schemas(schema) if members and is_described else None


def item_schema(schema: Schema) -> dict[str, Any] | None:
    """The schema of a list's items if it and the length say all about the list; None for anything else."""
    items, least, most = schema.get("items"), schema.get("minItems", 0), schema.get("maxItems", _MAX_ITEMS)
    is_described = schema.get("type") == "array" and schema.keys() <= _OF_LISTS and isinstance(items, dict)
    if not is_described or not isinstance(least, int) or not isinstance(most, int):
        return None
    return part(items, schema) if 0 <= least <= most <= _MAX_ITEMS else None


def choice_schemas(schema: Schema) -> list[dict[str, Any]]:
    """The alternatives of a schema that has nothing else; none for any other."""
    choices = schema.get("anyOf")
    is_described = isinstance(choices, list) and schema.keys() <= _ANNOTATIONS | {"anyOf"}
    return [part(each, schema) for each in choices or ()] if is_described else []


def has_references(schema: Schema) -> bool:
    return bool(_REFERENCE.search(json.dumps(_without_definitions(schema))))


def definition_of(schema: Schema) -> tuple[int, dict[str, Any]] | None:
    """The definition to which a schema that says nothing else refers, and its identity; None for any other."""
    found = _POINTER.fullmatch(str(schema.get("$ref")))
    if found is None or found[3] or not schema.keys() <= _ANNOTATIONS | {"$ref"}:
        return None
    definitions = schema.get(found[1])
    definition = definitions.get(_name(found[2])) if isinstance(definitions, dict) else None
    return (id(definition), part(definition, schema)) if isinstance(definition, dict) else None


def resolved(schema: Schema) -> Schema:
    """The schema that another stands for which is nothing but a reference, or an `allOf` of one schema."""
    seen: set[int] = set()
    while (other := _stands_for(schema)) is not None and other[0] not in seen:
        seen.add(other[0])
        schema = other[1]
    return schema


def alternatives(schema: Schema) -> Iterator[Schema]:
    """A schema and those between which it leaves the choice, resolved; a definition comes once."""
    waiting, seen = [schema], set[int]()
    while waiting:
        each = waiting.pop()
        other = _stands_for(each)
        if other is None:
            yield each
            listed = [each[key] for key in _CHOICES if isinstance(each.get(key), list)]
            waiting += [part(choice, each) for choices in listed for choice in choices][::-1]
        elif other[0] not in seen:
            seen.add(other[0])
            waiting.append(other[1])


def only_chooses(schema: Schema) -> bool:
    """Whether a schema says nothing but that one of others holds."""
    return len(schema.keys() & set(_CHOICES)) == 1 and schema.keys() <= _ANNOTATIONS | set(_CHOICES)


def _stands_for(schema: Schema) -> tuple[int, dict[str, Any]] | None:
    parts = schema.get("allOf")
    if isinstance(parts, list) and len(parts) == 1 and schema.keys() <= _ANNOTATIONS | {"allOf"}:
        return id(parts[0]), part(parts[0], schema)
    return definition_of(schema)


def with_reachable_definitions(schema: Schema) -> dict[str, Any]:
    """The schema with those of its definitions alone to which it refers, itself or by other definitions."""
    own = _without_definitions(schema)
    kept: dict[str, dict[str, Any]] = {}
    waiting = _references(own)
    while waiting:
        section, name = waiting.pop()
        definitions = schema.get(section, {})
        if name in definitions and name not in kept.setdefault(section, {}):
            kept[section][name] = definitions[name]
            waiting += _references(definitions[name])
    return own | kept


def part(inner: Any, schema: Schema) -> dict[str, Any]:
    """A schema in another, as a schema of its own; empty if it is no object."""
    own = inner if isinstance(inner, dict) else {}
    definitions = {key: schema[key] for key in _DEFINITIONS if key in schema}
    return own | definitions if definitions and has_references(own) else own


def _without_definitions(schema: Schema) -> dict[str, Any]:
    return {key: each for key, each in schema.items() if key not in _DEFINITIONS}


def _references(schema: Any) -> list[tuple[str, str]]:
    """Section and name of each definition that a schema refers to."""
    texts = map(json.loads, _REFERENCE.findall(json.dumps(schema)))
    return [(found[1], _name(found[2])) for text in texts if (found := _POINTER.fullmatch(text))]


def _name(written: str) -> str:
    """A name in a JSON pointer in a URI."""
    return unquote(written).replace("~1", "/").replace("~0", "~")
