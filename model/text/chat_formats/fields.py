"""The fields of an answer, and the sink that a parser of tool calls writes to."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Any

Schemas = Mapping[str, Mapping[str, Any]]  # tool name -> the JSON schema of its arguments


class Field(StrEnum):
    CONTENT = "content"
    REASONING = "reasoning"
    TOOL_NAME = "tool_name"  # a new call
    TOOL_ARGUMENTS = "tool_arguments"


@dataclass(frozen=True, slots=True)
class FieldDelta:
    """The next piece of a field; `index` is the number of the call."""

    field: Field
    text: str
    index: int = 0


class FieldSink:
    """Collects deltas. White space at the edges of reasoning and content belongs to the format, not to the text."""

    def __init__(self, schemas: Schemas) -> None:
        self.schemas = schemas
        self.num_calls = 0
        self.call_ends: list[tuple[int, int]] = []  # (number of calls so far, where in the text the last one ended)
        self.has_arguments = True  # the call that was begun last
        self._deltas: list[FieldDelta] = []
        self.field = Field.CONTENT
        self._space = ""  # white space that is part of the text if something follows it
        self._at_start = False  # leading white space is left out
        self._begun: set[Field] = set()  # fields with text

    def take(self) -> list[FieldDelta]:
        """The deltas since the last call, neighbours of one field joined."""
        deltas, self._deltas = self._deltas, []
        same_field = groupby(deltas, key=lambda delta: (delta.field, delta.index))
        return [FieldDelta(field, "".join(each.text for each in found), index) for (field, index), found in same_field]

    def enter(self, field: Field, *, is_continued: bool = False) -> None:
        """Go on with another field: the white space between the two is left out.

        `is_continued`: the prompt has the beginning of the field, so white space belongs to the text.
        """
        self.field, self._space, self._at_start = field, "", not is_continued

    def enter_message(self, field: Field) -> None:
        """Like `enter`, with a blank line after an earlier message in the same field."""
        self.enter(field)
        self._space = "\n\n" if field in self._begun else ""

    def text(self, text: str) -> None:
        """A piece of the current field, which is content or reasoning."""
        if self._at_start:
            text = text.lstrip()
        if not text:
            return
        text = self._space + text
        kept = text.rstrip()
        self._space = text[len(kept) :]
        if kept:
            self._at_start = False
            self._begun.add(self.field)
            self._deltas.append(FieldDelta(self.field, kept))

    def finish(self) -> None:
        """The end of the text: white space at the end of the content is content."""
        if self._space and self.field is Field.CONTENT:
            self._deltas.append(FieldDelta(Field.CONTENT, self._space))
        self._space = ""

    def begin_call(self, name: str) -> None:
        self.enter(Field.CONTENT)
        self.has_arguments = False
        self._deltas.append(FieldDelta(Field.TOOL_NAME, name, self.num_calls))
        self.num_calls += 1

    def arguments(self, text: str) -> None:
        """A piece of the text of a JSON object."""
        if text:
            self.has_arguments = True
            self._deltas.append(FieldDelta(Field.TOOL_ARGUMENTS, text, self.num_calls - 1))

    def end_call(self, *, was_cut_off: bool = False) -> None:
        """A call without arguments has none, unless it was cut off before them."""
        if not self.has_arguments and not was_cut_off:
            self.arguments("{}")
