"""What is kept, dropped, closed and refused of JSON schemas."""

import json
from typing import Any

import pytest

from server.generation.json_schema import (
    MAX_DEFINITIONS,
    MAX_DEPTH,
    MAX_LEVELS,
    MAX_SCHEMA,
    SchemaError,
    constrained_schema,
)

A = {"type": "string"}


def written(schema: Any) -> Any:
    found = constrained_schema(schema)
    assert found.pop("x-guidance") == {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    return found


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({}, {}),
        (A | {"title": "t", "description": "d", "default": "x", "examples": [1], "x-any": {}, "$comment": "c"}, A),
        (A | {"format": "date"}, A | {"format": "date"}),
        (A | {"format": "password"}, A),
        (A | {"x-guidance": {"lenient": True}}, A),
        ({"uniqueItems": False, "propertyNames": {"type": "string"}, "if": {"const": 1}}, {}),
        ({"properties": {"title": A | {"title": "x"}}}, {"properties": {"title": A}, "additionalProperties": False}),
        ({"enum": [{"title": 1}]}, {"enum": [{"title": 1}]}),
        ({"items": [A | {"title": "x"}, True]}, {"items": [A, True]}),
        ({"type": "integer"}, {"type": "integer", "minimum": -(2**53) + 1, "maximum": 2**53 - 1}),
        ({"type": "integer", "minimum": 5}, {"type": "integer", "minimum": 5}),
    ],
    ids=str,
)
def test_annotations_are_dropped_and_assertions_are_kept(schema: Any, expected: Any) -> None:
    assert written(schema) == expected


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": A}, "additionalProperties": True},
        {"properties": {"a": A}, "additionalProperties": A},
        {"properties": {"a": A}, "patternProperties": {"^x": A}},
        {"properties": {"a": A}, "required": ["b"]},
        {"properties": {"a": A}, "minProperties": 1},
        {"type": "object"},
        {"allOf": [{"properties": {"a": A}}, {"properties": {"b": A}, "required": ["b"]}]},
        {"properties": {"a": A}, "anyOf": [{"required": ["a"]}, {"properties": {"b": A}, "required": ["b"]}]},
        {"$ref": "#/$defs/X", "properties": {"a": A}, "$defs": {"X": {"properties": {"b": A}}}},
    ],
    ids=str,
)
def test_objects_stay_open_where_others_may_be_needed(schema: Any) -> None:
    assert written(schema) == schema


def test_objects_that_name_their_properties_are_closed_also_inside() -> None:
    inner = {"type": "object", "properties": {"b": A}, "required": ["b"]}
    closed = inner | {"additionalProperties": False}
    schema = {"properties": {"a": {"items": inner}}, "$defs": {"D": inner}}
    found = written(schema)
    assert found["additionalProperties"] is False
    assert found["properties"]["a"]["items"] == closed
    assert found["$defs"]["D"] == closed
    assert "additionalProperties" not in inner, "the client's schema is not changed"


@pytest.mark.parametrize(
    ("schema", "place", "words"),
    [
        (True, "", "an object"),
        ([], "", "an object"),
        ({"properties": {"a": {"not": {}}}}, "properties.a.not", "`not`"),
        ({"items": {"if": {}, "then": {}}}, "items.if", "`if`"),
        ({"$defs": {"x": {"dependentRequired": {"a": ["b"]}}}}, "$defs.x.dependentRequired", "`dependentRequired`"),
        ({"unevaluatedProperties": False}, "unevaluatedProperties", "`unevaluatedProperties`"),
        ({"prefixItems": [{}, {"format": "regex"}]}, "prefixItems.1.format", "`regex`"),
        ({"items": {"format": ["date"]}}, "items.format", "a string"),
        ({"properties": {"a": A}, "required": [["a"]]}, "required", "names"),
        ({"enum": ["a", "x" * 5000]}, "enum.1", "too long"),
        ({"properties": {"x" * 5000: {}}}, "properties." + "x" * 64, "too long"),
        ({"properties": {f"p{n}": {} for n in range(501)}}, "properties", "501 are too many"),
        ({"minProperties": 2, "required": ["a"]}, "minProperties", "as many are required"),
        ({"properties": None}, "properties", "has to be an object"),
        ({"items": {"enum": "ab"}}, "items.enum", "has to be a list"),
        ({"required": [{}]}, "required", "a list of names"),
        ({"type": "string", "minLength": None}, "minLength", "has to be an integer"),
        ({"minProperties": "2"}, "minProperties", "as many are required"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_used_is_refused_with_its_place(schema: Any, place: str, words: str) -> None:
    with pytest.raises(SchemaError, match=r".") as error:
        constrained_schema(schema)
    assert error.value.place == place
    assert words in str(error.value)


def test_depth_definitions_and_size_are_bounded() -> None:
    deep: Any = {}
    for _ in range(MAX_DEPTH - 1):
        deep = {"items": deep}
    constrained_schema(deep)
    many = {f"d{number}": {} for number in range(MAX_DEFINITIONS)}
    constrained_schema({"$defs": many})
    large = {"enum": ["x" * 1000] * (MAX_SCHEMA // 1000)}
    for schema, words in [
        ({"items": deep}, "levels deep"),
        ({"$defs": many, "definitions": {"e": {}}}, "definitions"),
        (large, "too large"),
    ]:
        with pytest.raises(SchemaError, match=words):
            constrained_schema(schema)
    constrained_schema({"description": json.dumps(large)})


def test_values_are_not_nested_deeper_than_they_can_be_followed() -> None:
    def nested(levels: int) -> Any:
        value: list[Any] = []
        for _ in range(levels - 1):
            value = [value]
        return value

    constrained_schema({"const": nested(MAX_LEVELS - 1)})
    for levels in (MAX_LEVELS, 5000):
        with pytest.raises(SchemaError, match="levels of JSON"):
            constrained_schema({"const": nested(levels)})


def test_more_than_is_required_is_implied() -> None:
    schema = {"type": "object", "required": ["a", "b"], "minProperties": 2}
    assert "minProperties" not in written(schema)
