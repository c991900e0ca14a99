"""What is said of a schema that the compiler refuses."""

import json

import pytest

from server.generation import grammar as module
from server.generation.grammar import JsonSchemaGrammar

WRONG = {"type": "object", "properties": {"a": {"type": "null"}, "b": {"items": {"pattern": "(?=x)"}}}}


def says_what_is_wrong(grammar: str) -> str:
    return "no look-around" if "(?=x)" in json.dumps(json.loads(grammar)) else ""


def test_the_innermost_schema_that_is_wrong_is_named() -> None:
    error = JsonSchemaGrammar("schema", WRONG).explain("nothing matches", says_what_is_wrong)
    assert (str(error), error.place) == ("no look-around", "properties.b.items")


def test_it_is_looked_for_as_long_as_others_can_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    now, asked = [0.0], []

    def slow(grammar: str) -> str:
        asked.append(grammar)
        now[0] += 0.3
        return says_what_is_wrong(grammar)

    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    error = JsonSchemaGrammar("schema", WRONG).explain("nothing matches", slow)
    assert (str(error), error.place) == ("no look-around", "properties.b")
    assert len(asked) == 2
