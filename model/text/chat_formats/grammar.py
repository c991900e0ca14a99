"""Grammars of answers in llguidance's Lark syntax, made from the same rows that read the answers.

See https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md. Special tokens, and added tokens that look like
tags, are written by their id; no text matches them. A grammar of the content is referred to as `@answer`.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from model.text.chat_formats.schema_parts import with_reachable_definitions

ANSWER = "@answer"
_CLASS = r"\[\^?\]?[^\]]*\]"
_ASCII_CLASSES = {  # Rust's have letters and digits of all scripts
    r"\d": "[0-9]", r"\D": "[^0-9]", r"\w": "[A-Za-z0-9_]", r"\W": "[^A-Za-z0-9_]", "/": r"\/", "\n": r"\n",
}  # fmt: skip
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}  # as templates write JSON


class GrammarBuilder:
    """Collects the rules of a grammar. Its methods return expressions."""

    def __init__(self, control_tokens: Mapping[str, int]) -> None:
        """`control_tokens` are the tokens that no text matches, by their text."""
        self._ids = control_tokens
        longest_first = sorted(control_tokens, key=len, reverse=True)
        self._tokens = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._rules: dict[str, str] = {}  # name by definition: what is defined once may be used often
        self._shared: dict[int, str] = {}  # name by identity
        self._unwritten: list[tuple[str, Callable[[], str]]] = []  # shared rules

    def literal(self, text: str) -> str:
        """Exactly this text; control tokens in it are those tokens."""
        parts, start = [], 0
        for found in self._tokens.finditer(text):
            parts += [_quoted(text[start : found.start()]), f"<[{self._ids[found[0]]}]>"]
            start = found.end()
        return " ".join(filter(None, [*parts, _quoted(text[start:])]))

    def until(self, marker: str, length: str = "*", regex: str | None = None) -> str:
        """Any text up to the first `marker`, which is read too.

        `length` is as in a regular expression: `{0,5}`. `regex` matches the whole text, see `whole_text_regex`.
        """
        found = self._tokens.search(marker)
        head = marker[: found.start()] if found else marker
        body = f"/(?s:.{length})/" if regex is None else f"/(?s:.{length})/ & /{regex}/"
        if not head:
            return f"{self.rule(body)} {self.literal(marker)}"
        if regex is not None:
            body += f" & ~/(?s:.*{_regex(head)}.*)/"
        name = self._add(f"[suffix={_quoted(head)}]", body)
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
        return f"{self._add('', f'/(?s:.*)/ & ~/(?s:.*{_regex(head)}.*)/', 'TEXT')}?"

    def space(self) -> str:
        """Line breaks and spaces as models put them around markers."""
        return self.rule(r"/[ \n]{0,2}/")

    def json(self, schema: Mapping[str, Any]) -> str:
        """A JSON value of a schema."""
        return self.rule(f"%json {json.dumps(with_reachable_definitions(schema) | {'x-guidance': _SPACING})}")

    def rule(self, body: str) -> str:
        """A rule of its own for an expression."""
        return self._add("", body)

    def shared(self, identity: int, write: Callable[[], str]) -> str:
        """A rule that may refer to itself: `write` makes its expression later, once for each `identity`."""
        if identity not in self._shared:
            self._shared[identity] = f"shared_{len(self._shared)}"
            self._unwritten.append((self._shared[identity], write))
        return self._shared[identity]

    def grammar(self, start: str) -> str:
        """The text of the grammar."""
        lines = [f"start: {start}"]
        while self._unwritten:
            name, write = self._unwritten.pop()
            lines.append(f"{name}: {write()}")
        return "\n".join([*lines, *(f"{name}{rule}" for rule, name in self._rules.items())]) + "\n"

    def _add(self, attributes: str, body: str, kind: str = "rule") -> str:
        """The name of a rule; terminals have names in capitals."""
        return self._rules.setdefault(f"{attributes}: {body}", f"{kind}_{len(self._rules)}")


def is_tag(token: str) -> bool:
    """Whether an added token looks like a tag, such as <think>: no text of a grammar matches it, special or not."""
    return token.startswith("<") and token.endswith(">")


def one_of(expressions: list[str]) -> str:
    return f"({' | '.join(expressions)})"


def separated(expression: str, separator: str, *, many: bool) -> str:
    """One of an expression, or several with a separator between them."""
    return f"{expression} ({separator} {expression})*" if many else expression


def repeated(expression: str, separator: str, schema: Mapping[str, Any]) -> str:
    """As many of an expression as a list may have items, with a separator between them."""
    least, most = schema.get("minItems", 0), schema.get("maxItems")
    if most == 0:
        return ""
    more = f"({separator} {expression}){{{max(least - 1, 0)},{'' if most is None else most - 1}}}"
    return f"{expression} {more}" if least else f"({expression} {more})?"


def in_order(
    build: GrammarBuilder, parameters: Mapping[str, str], schema: Mapping[str, Any], separator: str = ""
) -> str:
    """The parameters in their order, each once; those that are not required may be left out."""
    required = set(schema.get("required", ()))
    following = {
        name: f"{separator} {each}" if name in required else f"({separator} {each})?"
        for name, each in parameters.items()
    }
    if not separator or not parameters:
        return " ".join(following.values())
    names = list(parameters)
    num_first = next((place for place, name in enumerate(names, 1) if name in required), len(names))
    choices: list[str] = []
    rest = " ".join(following[name] for name in names[num_first:])
    for name in reversed(names[:num_first]):  # the list begins with one of these
        if choices:
            rest = build.rule(rest)
        choices.append(f"{parameters[name]} {rest}")
        rest = f"{following[name]} {rest}"
    return one_of(choices) if required & parameters.keys() else f"{one_of(choices)}?"


def whole_text_regex(pattern: str) -> str | None:
    """The `pattern` of a JSON schema, which may match anywhere in a text, as a regex of the whole text.

    None for one that llguidance reads in another way, or not at all: with look-around, references, anchors within.
    """
    at_start, at_end = pattern.startswith("^"), pattern.endswith("$") and not pattern.endswith("\\$")
    inner = pattern[at_start : len(pattern) - at_end]
    if any(escape.isalnum() and escape not in "dDwWsSnrt" for escape in re.findall(r"\\(.)", inner)):
        return None
    outside = re.sub(r"\\.", "", inner)
    classes = re.findall(_CLASS, outside)
    outside = re.sub(_CLASS, "", outside)
    if re.search(r"[\^$]|\(\?(?!:)", outside) or any(re.search(r".\[|&&|--|~~", each) for each in classes):
        return None
    while (fewer := re.sub(r"\([^()]*\)", "", outside)) != outside:
        outside = fewer
    if (at_start or at_end) and "|" in outside:
        return None  # the anchor belongs to one of the alternatives
    inner = re.sub(r"\\.|[/\n]", lambda found: _ASCII_CLASSES.get(found[0], found[0]), inner)
    anything = "(?s:.*)"
    return f"{'' if at_start else anything}(?:{inner}){'' if at_end else anything}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""


def _regex(text: str) -> str:
    """A text in a regular expression between slashes."""
    return re.escape(text).replace("/", r"\/").replace("\\\n", r"\n")
