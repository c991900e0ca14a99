"""The format of a checkpoint's answers: which router reads them, and which special tokens the router has to see."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from model.text.chat_formats import harmony
from model.text.chat_formats.families import PLAIN_JSON, CallFamily, call_family, ignored_markers, reasoning_family
from model.text.chat_formats.fields import Schemas
from model.text.chat_formats.harmony import HarmonyAnswer, uses_harmony
from model.text.chat_formats.router import Router
from model.text.chat_formats.tagged_answer import ReasoningMarkers, TaggedAnswer

_END_CHARACTERS = 512  # of the prompt: the beginning of an answer is among them


@dataclass(frozen=True, slots=True)
class PromptEnd:
    """The end of a rendered prompt, and what the last message has if the answer goes on with it."""

    text: str = ""
    continued: str | None = None

    def shortened(self) -> "PromptEnd":
        """As much as formats look at."""
        return PromptEnd(self.text[-_END_CHARACTERS:], self.continued)


class ChatFormat(Protocol):
    """`marker_ids` are special tokens that are part of the format: they reach the router, and never a field."""

    @property
    def marker_ids(self) -> frozenset[int]: ...

    @property
    def call_ids(self) -> str:
        """See CallFamily."""

    def write_calls(self, calls: Sequence[tuple[str, Any]]) -> str:
        """The text of calls (names and arguments), for a template that cannot write them."""

    def router(self, schemas: Schemas, end: PromptEnd) -> Router | None:
        """A router for one answer that may call the tools of `schemas`; None where all text is content."""


@dataclass(frozen=True, slots=True)
class TaggedFormat:
    """Reasoning and calls between markers."""

    family: CallFamily = PLAIN_JSON
    reasoning: ReasoningMarkers | None = None
    ignored: tuple[str, ...] = ()
    special_tokens: Mapping[str, int] = field(default_factory=dict)  # those that are part of a marker

    @property
    def marker_ids(self) -> frozenset[int]:
        return frozenset(self.special_tokens.values())

    @property
    def call_ids(self) -> str:
        return self.family.call_ids

    def write_calls(self, calls: Sequence[tuple[str, Any]]) -> str:
        return self.family.calls.write(calls)

    def router(self, schemas: Schemas, end: PromptEnd) -> Router | None:
        if not schemas and self.reasoning is None:
            return None
        answer = TaggedAnswer(
            self.reasoning,
            self.family.calls if schemas else None,
            in_reasoning=self.begins_in_reasoning(end),
            is_continued=end.continued is not None,
            special=frozenset(self.special_tokens),
            ignored=self.ignored,
        )
        return Router(answer, schemas)

    def begins_in_reasoning(self, end: PromptEnd) -> bool:
        """Whether the prompt has opened the reasoning and not closed it."""
        if self.reasoning is None:
            return False
        if end.continued is not None:
            return end.continued.rfind(self.reasoning.open) > end.continued.rfind(self.reasoning.close)
        return end.text.rstrip().endswith(self.reasoning.open.rstrip())


@dataclass(frozen=True, slots=True)
class HarmonyFormat:
    """The messages of gpt-oss."""

    marker_ids: frozenset[int]
    call_ids: str = "any"

    def write_calls(self, calls: Sequence[tuple[str, Any]]) -> str:
        return PLAIN_JSON.calls.write(calls)

    def router(self, schemas: Schemas, end: PromptEnd) -> Router | None:
        begun = end.text.rfind(harmony.START, -_END_CHARACTERS if end.continued is None else 0)
        return Router(HarmonyAnswer(end.text[begun:] if begun >= 0 else ""), schemas)


def chat_format(template: str, special_tokens: Mapping[str, int], added_tokens: Collection[str] = ()) -> ChatFormat:
    """The format that a chat template and a vocabulary show. `added_tokens` are those that are not special too."""
    if uses_harmony(special_tokens):
        return HarmonyFormat(frozenset(special_tokens[token] for token in harmony.MARKERS if token in special_tokens))
    family, reasoning = call_family(template), reasoning_family(template, added_tokens)
    ignored = ignored_markers(template)
    markers = "\n".join((*_markers(family, reasoning), *ignored))
    special = {token: token_id for token, token_id in special_tokens.items() if token in markers}
    return TaggedFormat(family, reasoning, ignored, special)


def _markers(family: CallFamily, reasoning: ReasoningMarkers | None) -> Iterable[str]:
    yield from family.calls.markers
    if reasoning is not None:
        yield from (reasoning.open, reasoning.close)
