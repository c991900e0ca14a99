"""What an answer must look like: as a client says it, and as a grammar for the engine (SamplingParams.grammar).

The latter is llguidance's JSON form with one grammar in it, so that it can be put after something else (`following`).
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from server.generation.json_schema import SchemaError, constrained_schema, subschemas

ANSWER = "answer"
MAX_TRIES, MAX_SECONDS = 40, 0.5  # of finding the part of a schema that is wrong: grammars of others wait meanwhile

Validate = Callable[[str], str]  # what is wrong with a grammar


@dataclass(frozen=True, slots=True)
class AnswerGrammar:
    """A grammar in one of the forms in which clients give it; `param` is the field it comes from."""

    param: str

    def text(self) -> str:
        """The grammar for the engine. Raises SchemaError. Large ones take a while: call it in a thread."""
        raise NotImplementedError

    def explain(self, error: str, validate: Validate) -> SchemaError:
        """The error of the compiler, with the place of its cause where it can be found."""
        return SchemaError(error)


@dataclass(frozen=True, slots=True)
class JsonSchemaGrammar(AnswerGrammar):
    """JSON that is valid by a schema; `schema` may be its text."""

    schema: Any

    def text(self) -> str:
        return json_schema_text(self.parsed())

    def explain(self, error: str, validate: Validate) -> SchemaError:
        """Find the innermost schema that is refused alone, with the definitions of the whole, as far as time allows."""
        schema: Any = self.parsed()
        definitions = {name: schema[name] for name in ("$defs", "definitions", "$schema") if name in schema}
        place, waiting, tries, end = "", list(subschemas(schema)), MAX_TRIES, time.monotonic() + MAX_SECONDS
        while waiting and tries and time.monotonic() < end:
            path, part = waiting.pop(0)
            tries -= 1
            if isinstance(part, dict) and (found := validate(json_schema_text(definitions | part))):
                place, error, waiting = (f"{place}.{path}" if place else path), found, list(subschemas(part))
        if error.startswith("oneOf"):
            error = "`oneOf` is only supported for alternatives that exclude each other: use `anyOf`"
        return SchemaError(error, place)

    def parsed(self) -> Any:
        """The schema. Raises SchemaError for a text that is not JSON."""
        try:
            return json.loads(self.schema) if isinstance(self.schema, str) else self.schema
        except (ValueError, RecursionError) as error:
            raise SchemaError(f"this is not JSON: {error}") from error


@dataclass(frozen=True, slots=True)
class RegexGrammar(AnswerGrammar):
    """A text that a regular expression matches from its first to its last character."""

    regex: str

    def text(self) -> str:
        from llguidance import regex_to_lark

        return lark_text(f"start: /{regex_to_lark(self.regex, 'd')}/")


@dataclass(frozen=True, slots=True)
class ChoiceGrammar(AnswerGrammar):
    """One of several texts."""

    choices: Sequence[str]

    def text(self) -> str:
        return lark_text("start: CHOICE\nCHOICE: " + " | ".join(json.dumps(choice) for choice in self.choices))


@dataclass(frozen=True, slots=True)
class WrittenGrammar(AnswerGrammar):
    """A grammar as Lark (with the rule `start`) or as GBNF of llama.cpp (with the rule `root`)."""

    grammar: str

    def text(self) -> str:
        from llguidance import grammar_from

        try:
            return lark_text(grammar_from("grammar", self.grammar))
        except (ValueError, RecursionError) as error:
            raise SchemaError(str(error)) from error


def lark_text(lark: str) -> str:
    return json.dumps({"grammars": [{"lark_grammar": lark}]}, ensure_ascii=False)


def json_schema_text(schema: Any) -> str:
    """Raises SchemaError for a schema that cannot be used."""
    return json.dumps({"grammars": [{"json_schema": constrained_schema(schema)}]}, ensure_ascii=False)


def following(lark: str, grammar: str) -> str:
    """A grammar after something else, such as reasoning: `lark` says what comes first, and refers to `@answer`."""
    [answer] = json.loads(grammar)["grammars"]
    return json.dumps({"grammars": [{"lark_grammar": lark}, answer | {"name": ANSWER}]}, ensure_ascii=False)
