"""Grammars of answers in llguidance's Lark syntax, made from the same rows that read the answers.

See https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md. Special tokens, and added tokens that look like
tags, are written by their id; no text matches them. A grammar of the content is referred to as `@answer`.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

ANSWER = "@answer"
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}  # as templates write JSON


class GrammarBuilder:
    """Collects the rules of a grammar. Its methods return expressions."""

    def __init__(self, control_tokens: Mapping[str, int]) -> None:
        """`control_tokens` are the tokens that no text matches, by their text."""
        self._ids = control_tokens
        longest_first = sorted(control_tokens, key=len, reverse=True)
        self._tokens = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._rules: list[str] = []

    def literal(self, text: str) -> str:
        """Exactly this text; control tokens in it are those tokens."""
        parts, start = [], 0
        for found in self._tokens.finditer(text):
            parts += [_quoted(text[start : found.start()]), f"<[{self._ids[found[0]]}]>"]
            start = found.end()
        return " ".join(filter(None, [*parts, _quoted(text[start:])]))

    def until(self, marker: str, length: str = "*") -> str:
        """Any text up to the first `marker`, which is read too. `length` is as in a regular expression: `{0,5}`."""
        found = self._tokens.search(marker)
        if found is not None and found.start() == 0:
            return f"{self.rule(f'/(?s:.{length})/')} {self.literal(marker)}"
        head = marker[: found.start()] if found else marker
        name = self._add(f"[suffix={_quoted(head)}]", f"/(?s:.{length})/")
        return f"{name} {self.literal(marker[len(head) :])}".strip()

    def text(self) -> str:
        """Any text without control tokens, perhaps none."""
        return self.rule("/(?s:.*)/")

    def text_without(self, marker: str) -> str:
        """Any text that does not have the beginning of `marker`."""
        found = self._tokens.search(marker)
        head = marker[: found.start()] if found else marker
        if not head:
            return self.text()
        name = f"TEXT_{len(self._rules)}"
        self._rules.append(f"{name}: /(?s:.*)/ & ~/(?s:.*{_regex(head)}.*)/")
        return f"{name}?"

    def space(self) -> str:
        """Line breaks and spaces as models put them around markers."""
        return self.rule(r"/[ \n]{0,2}/")

    def json(self, schema: Mapping[str, Any]) -> str:
        """A JSON value of a schema."""
        return self.rule(f"%json {json.dumps({**schema, 'x-guidance': _SPACING})}")

    def rule(self, body: str) -> str:
        """A rule of its own for an expression."""
        return self._add("", body)

    def grammar(self, start: str) -> str:
        """The text of the grammar."""
        return "\n".join([f"start: {start}", *self._rules]) + "\n"

    def _add(self, attributes: str, body: str) -> str:
        name = f"rule_{len(self._rules)}"
        self._rules.append(f"{name}{attributes}: {body}")
        return name


def one_of(expressions: list[str]) -> str:
    return f"({' | '.join(expressions)})"


def separated(expression: str, separator: str, *, many: bool) -> str:
    """One of an expression, or several with a separator between them."""
    return f"{expression} ({separator} {expression})*" if many else expression


def object_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a tool's arguments, which are an object also where it does not say so."""
    return {"type": "object", "properties": {}, **schema}


def parameter_schemas(schema: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The schema of each parameter, with the definitions that it may refer to."""
    definitions = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    properties = schema.get("properties", {})
    return {name: {**(each if isinstance(each, dict) else {}), **definitions} for name, each in properties.items()}


def in_order(
    build: GrammarBuilder, parameters: dict[str, str], schema: Mapping[str, Any], separator: str = ""
) -> str:
    """The parameters in their order, each once; those that are not required may be left out."""
    required = set(schema.get("required", ()))
    if not separator:
        return " ".join(each if name in required else f"({each})?" for name, each in parameters.items())
    first = after = '""'  # what is left of the list before its first parameter is written, and after
    for name, each in reversed(parameters.items()):
        if name in required:
            first, after = f"{each} {after}", build.rule(f"{separator} {each} {after}")
        else:
            first, after = f"{each} {after} | {first}", build.rule(f"({separator} {each})? {after}")
        first = build.rule(first)
    return first


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""


def _regex(text: str) -> str:
    """A text in a regular expression between slashes."""
    return re.escape(text).replace("/", r"\/").replace("\\\n", r"\n")
