"""Random JSON schemas over the keywords of JSON Schema, with values that are near to being valid."""

import random
import string
from typing import Any

PATTERNS = ("^[a-c]{2,4}$", "^(on|off)$", "x", "^\\d+-\\d{2}$", "[A-Z][a-z]*$", "^\\w+@\\w+$")
FORMATS = ("date", "ipv4", "uuid", "email", "password", "int32")  # the last two are annotations
ANNOTATIONS = (
    {"title": "A title"},
    {"description": 'not this: {"]'},
    {"default": 5},
    {"examples": [1]},
    {"x-order": 3},
)
NAMES = ("a", "b", "name", "is it", "päth", 'quo"te', "c\\d")


class SchemaMaker:
    """Makes schemas that have valid values; these are short enough for a tiny context."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._definitions: dict[str, Any] = {}

    def schema(self) -> dict[str, Any]:
        made = self._schema(3)
        if self._definitions:
            made = {"$ref": self._new_definition(made), "$defs": self._definitions}
        return made

    def _schema(self, depth: int) -> dict[str, Any]:
        kinds = [self._integer, self._number, self._string, self._enum, self._const, self._plain]
        if depth:
            nested = [self._object, self._array, self._tuple, self._map, self._any_of, self._one_of, self._all_of]
            kinds = [*kinds, *2 * [lambda each=each: each(depth - 1) for each in (*nested, self._reference)]]
        made: dict[str, Any] = self._random.choice(kinds)()
        if self._random.random() < 0.3:
            made |= self._random.choice(ANNOTATIONS)
        return made

    def _plain(self) -> dict[str, Any]:
        return {"type": self._random.choice(["null", "boolean", ["boolean", "null"], ["integer", "null"]])}

    def _integer(self) -> dict[str, Any]:
        low = self._random.randint(-50, 50)
        bounds: list[dict[str, Any]] = [
            {"minimum": low, "maximum": low + 30},
            {"exclusiveMinimum": low, "exclusiveMaximum": low + 12},
            {"minimum": 0, "maximum": 1000, "multipleOf": self._random.choice([2, 5, 7])},
        ]
        return {"type": "integer"} | self._random.choice(bounds)

    def _number(self) -> dict[str, Any]:
        low = round(self._random.uniform(-5, 5), 2)
        bounds: list[dict[str, Any]] = [
            {"minimum": low, "maximum": low + 2.5},
            {"exclusiveMinimum": 0, "maximum": 1},
            {"minimum": 0, "maximum": 10, "multipleOf": 0.5},
        ]
        return {"type": "number"} | self._random.choice(bounds)

    def _string(self) -> dict[str, Any]:
        least = self._random.randint(0, 3)
        rules: list[dict[str, Any]] = [
            {"minLength": least, "maxLength": least + self._random.randint(0, 4)},
            {"maxLength": 5},
            {"pattern": self._random.choice(PATTERNS), "maxLength": 12},
            {"format": self._random.choice(FORMATS), "maxLength": 40},
        ]
        return {"type": "string"} | self._random.choice(rules)

    def _enum(self) -> dict[str, Any]:
        values = [None, True, 3, -0.5, "yes", 'a "b"', "\n", [1, "x"], {"k": [None]}, "ü"]
        return {"enum": self._random.sample(values, self._random.randint(1, 5))}

    def _const(self) -> dict[str, Any]:
        return {"const": self._random.choice([None, 0, "fix", ["a", {"b": 1}], "tab\t"])}

    def _object(self, depth: int) -> dict[str, Any]:
        names = self._random.sample(NAMES, self._random.randint(1, 4))
        properties = {name: self._schema(depth) for name in names}
        made: dict[str, Any] = {"type": "object", "properties": properties}
        made["required"] = [name for name in names if self._random.random() < 0.6]
        extra = self._random.choice([None, False, {"type": "integer", "minimum": 0, "maximum": 9}])
        if extra is not None:
            made["additionalProperties"] = extra
        return made

    def _map(self, depth: int) -> dict[str, Any]:
        least = self._random.randint(0, 1)
        made: dict[str, Any] = {"type": "object", "minProperties": least, "maxProperties": least + 1}
        if self._random.random() < 0.5:
            return made | {"additionalProperties": self._schema(depth)}
        return made | {"patternProperties": {"^k[0-9]{1,9}$": self._schema(depth)}, "additionalProperties": False}

    def _array(self, depth: int) -> dict[str, Any]:
        least = self._random.randint(0, 2)
        return {"type": "array", "items": self._schema(depth), "minItems": least, "maxItems": least + 2}

    def _tuple(self, depth: int) -> dict[str, Any]:
        first = [self._schema(depth) for _ in range(self._random.randint(1, 2))]
        return {"type": "array", "prefixItems": first, "items": False, "minItems": self._random.randint(0, len(first))}

    def _any_of(self, depth: int) -> dict[str, Any]:
        return {"anyOf": [self._schema(depth) for _ in range(self._random.randint(1, 3))]}

    def _one_of(self, depth: int) -> dict[str, Any]:
        """Alternatives of which a property excludes the others."""
        kinds = self._random.sample(["cat", "dog", "bird"], 2)
        return {
            "oneOf": [
                {
                    "type": "object",
                    "properties": {"kind": {"const": kind}, "it": self._schema(depth)},
                    "required": ["kind"],
                    "additionalProperties": False,
                }
                for kind in kinds
            ],
            "discriminator": {"propertyName": "kind"},
        }

    def _all_of(self, depth: int) -> dict[str, Any]:
        parts: list[list[dict[str, Any]]] = [
            [{"type": "integer", "minimum": 3}, {"maximum": 9}],
            [{"type": "string", "maxLength": 6}, {"minLength": 2}],
            [{"type": "array", "items": {"type": "boolean"}, "maxItems": 3}, {"minItems": 1}],
        ]
        return {"allOf": self._random.choice(parts)}

    def _reference(self, depth: int) -> dict[str, Any]:
        return {"$ref": self._new_definition(self._schema(depth))}

    def _new_definition(self, schema: dict[str, Any]) -> str:
        name = f"D{len(self._definitions)}"
        self._definitions[name] = schema
        return f"#/$defs/{name}"


def changed(value: Any, rng: random.Random) -> Any:
    """A value that differs in one place, perhaps in its type."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice(list(value))
        how = rng.randrange(3)
        if how == 0:
            return {key: each for key, each in value.items() if key != name}
        if how == 1:
            return value | {"unknown": 1}
        return value | {name: changed(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        if rng.random() < 0.4:
            return value + 3 * value[place : place + 1]
        return [changed(each, rng) if index == place else each for index, each in enumerate(value)]
    if isinstance(value, str) and rng.random() < 0.6:
        return value + rng.choice(string.ascii_letters) * rng.randint(1, 9)
    if isinstance(value, int | float) and rng.random() < 0.6:
        return value + rng.choice([-1000, -0.25, 1, 31, 1000.5])
    return rng.choice([None, False, 17, -2.75, "other", [], {}, [[]], {"k": 0}])
