"""The format of a checkpoint's answers: which router reads them, and which special tokens the router has to see."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from model.text.chat_formats import harmony
from model.text.chat_formats.families import PLAIN_JSON, CallFamily, call_family, ignored_markers, reasoning_family
from model.text.chat_formats.fields import Schemas
from model.text.chat_formats.grammar import ANSWER, GrammarBuilder, one_of
from model.text.chat_formats.harmony import HarmonyAnswer, uses_harmony
from model.text.chat_formats.response_template import calls_of, reasoning_of
from model.text.chat_formats.router import AnswerParser, AnswerRouter
from model.text.chat_formats.tagged_answer import ReasoningMarkers, TaggedAnswer

_NO_OBJECT = r"/[^{\[\s](?s:.*)/"  # text that is no call of a format without markers
_END_CHARACTERS = 512  # of the prompt: the beginning of an answer is among them


@dataclass(frozen=True, slots=True)
class PromptEnd:
    """The end of a rendered prompt, and what the last message has if the answer goes on with it."""

    text: str = ""
    continued: str | None = None

    def shortened(self) -> "PromptEnd":
        """As much as formats look at."""
        return PromptEnd(self.text[-_END_CHARACTERS:], self.continued)


@dataclass(frozen=True, slots=True)
class ThinkingMarkers:
    """The texts that begin and end thinking. `open` is empty where the prompt has begun it; `forced` ends it early."""

    open: str
    close: str
    forced: str


@dataclass(frozen=True, slots=True)
class Constraints:
    """What an answer must have.

    `required`: calls, of the tools of `schemas`; otherwise content, or calls that follow the schemas. `many`: perhaps
    several calls. `has_answer`: there is a grammar of the content.
    """

    schemas: Schemas = field(default_factory=dict)
    required: bool = False
    many: bool = True
    has_answer: bool = False

    @property
    def is_empty(self) -> bool:
        return not self.schemas and not self.has_answer


class ChatFormat(Protocol):
    """`marker_ids` are special tokens that are part of the format: they reach the router, and never a field."""

    @property
    def marker_ids(self) -> frozenset[int]: ...

    @property
    def call_ids(self) -> str:
        """See CallFamily."""

    @property
    def mark_ids(self) -> frozenset[int]:
        """Tokens after which other conversations may go on in another way: the end of reasoning, a call's beginning."""

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an answer, beside those that the checkpoint's files name."""

    def write_calls(self, calls: Sequence[tuple[str, Any]]) -> str:
        """The text of calls (names and arguments), for a template that cannot write them."""

    def thinking(self, end: PromptEnd) -> ThinkingMarkers | None:
        """How thinking is marked in the answer; None where there is none."""

    def grammar(self, wanted: Constraints, end: PromptEnd) -> str | None:
        """A grammar (Lark) of the answers that are wanted; None if any answer is."""

    def router(self, schemas: Schemas, end: PromptEnd) -> AnswerRouter | None:
        """A router for one answer that may call the tools of `schemas`; None where all text is content."""

    def content_start(self, end: PromptEnd) -> str:
        """What is put after the prompt so that the answer begins with its content; empty where nothing is needed."""

    def content_parser(self, end: PromptEnd) -> AnswerParser | None:
        """A parser for an answer of which only the content counts; None where all text is content."""


@dataclass(frozen=True, slots=True)
class TaggedFormat:
    """Reasoning and calls between markers."""

    family: CallFamily = PLAIN_JSON
    reasoning: ReasoningMarkers | None = None
    ignored: tuple[str, ...] = ()
    special_tokens: Mapping[str, int] = field(default_factory=dict)  # those that are part of a marker
    control_tokens: Mapping[str, int] = field(default_factory=dict)  # see GrammarBuilder

    @property
    def marker_ids(self) -> frozenset[int]:
        return frozenset(self.special_tokens.values())

    @property
    def call_ids(self) -> str:
        return self.family.call_ids

    @property
    def mark_ids(self) -> frozenset[int]:
        marks = (*self.family.calls.opens, self.reasoning.close if self.reasoning else "")
        return frozenset(self.control_tokens[mark] for mark in marks if mark in self.control_tokens)

    @property
    def end_ids(self) -> frozenset[int]:
        return frozenset()

    def write_calls(self, calls: Sequence[tuple[str, Any]]) -> str:
        return self.family.calls.write(calls)

    def thinking(self, end: PromptEnd) -> ThinkingMarkers | None:
        if self.reasoning is None or end.text.rstrip().endswith(self.reasoning.close):
            return None
        opened = "" if self.begins_in_reasoning(end) else self.reasoning.open
        return ThinkingMarkers(opened, self.reasoning.close, f"\n{self.reasoning.close}\n\n")

    def grammar(self, wanted: Constraints, end: PromptEnd) -> str | None:
        if wanted.is_empty:
            return None
        build = GrammarBuilder(self.control_tokens)
        answer = self._answer_grammar(build, wanted)
        return build.grammar(f"{self._reasoning_grammar(build, end)} {answer}".strip())

    def _answer_grammar(self, build: GrammarBuilder, wanted: Constraints) -> str:
        if not wanted.schemas:
            return ANSWER
        calls, marker = self.family.calls, next(iter(self.family.calls.opens), "")
        region = calls.grammar(build, wanted.schemas, many=wanted.many)
        if wanted.required:
            return f"{build.literal(marker)} {region}"
        if wanted.has_answer:
            return f"({build.literal(marker)} {region} | {ANSWER})"
        if not marker:
            return f"({region} | {build.rule(_NO_OBJECT)})?"
        return f"({build.until(marker)} {region})* {build.text_without(marker)}"

    def _reasoning_grammar(self, build: GrammarBuilder, end: PromptEnd) -> str:
        """Reasoning comes first, if the model wants it, or if the prompt has begun it."""
        if self.reasoning is None or (end.continued is not None and not self.begins_in_reasoning(end)):
            return ""
        if self.begins_in_reasoning(end):
            return f"{build.until(self.reasoning.close)} {build.space()}"
        if end.text.rstrip().endswith(self.reasoning.close):
            return ""
        opened = build.literal(self.reasoning.open)
        return f"({opened} {build.until(self.reasoning.close)} {build.space()})?"

    def router(self, schemas: Schemas, end: PromptEnd) -> AnswerRouter | None:
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
        return AnswerRouter(answer, schemas)

    def content_start(self, end: PromptEnd) -> str:
        return f"\n{self.reasoning.close}\n\n" if self.reasoning and self.begins_in_reasoning(end) else ""

    def content_parser(self, end: PromptEnd) -> AnswerParser | None:
        if self.reasoning is None:
            return None
        special = frozenset(self.special_tokens)
        in_reasoning = self.begins_in_reasoning(end)
        return TaggedAnswer(self.reasoning, in_reasoning=in_reasoning, special=special, ignored=self.ignored)

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
    control_tokens: Mapping[str, int]
    call_ids: str = "any"

    @property
    def mark_ids(self) -> frozenset[int]:
        return frozenset({self.control_tokens[harmony.END]})

    @property
    def end_ids(self) -> frozenset[int]:
        ends = (harmony.CALL, harmony.RETURN)
        return frozenset(self.control_tokens[token] for token in ends if token in self.control_tokens)

    def write_calls(self, calls: Sequence[tuple[str, Any]]) -> str:
        return PLAIN_JSON.calls.write(calls)

    def thinking(self, end: PromptEnd) -> ThinkingMarkers | None:
        return ThinkingMarkers(harmony.ANALYSIS, harmony.END, harmony.END + harmony.NEXT)

    def grammar(self, wanted: Constraints, end: PromptEnd) -> str | None:
        if wanted.is_empty:
            return None
        build = GrammarBuilder(self.control_tokens)
        answers = [harmony.call_grammar(build, *each) for each in wanted.schemas.items()]
        if not wanted.required:
            content = ANSWER if wanted.has_answer else build.text()
            answers.append(f"{build.literal(harmony.FINAL)} {content}")
        return build.grammar(f"{harmony.analysis_grammar(build)} {one_of(answers)}")

    def router(self, schemas: Schemas, end: PromptEnd) -> AnswerRouter | None:
        return AnswerRouter(self.content_parser(end), schemas)

    def content_start(self, end: PromptEnd) -> str:
        return harmony.FINAL if end.text.endswith(harmony.NEXT) else ""

    def content_parser(self, end: PromptEnd) -> HarmonyAnswer:
        begun = end.text.rfind(harmony.START, -_END_CHARACTERS if end.continued is None else 0)
        return HarmonyAnswer(end.text[begun:] if begun >= 0 else "")


def chat_format(
    template: str,
    special_tokens: Mapping[str, int],
    added_tokens: Mapping[str, int] | None = None,
    response_template: Any = None,
) -> ChatFormat:
    """The format of answers: as `response_template` says, where it says it, or as template and vocabulary show it.

    `added_tokens` are the special ones and others.
    """
    added_tokens = added_tokens or special_tokens
    control_tokens = {
        token: token_id for token, token_id in added_tokens.items() if token in special_tokens or _is_tag(token)
    }
    if uses_harmony(special_tokens):
        marker_ids = frozenset(special_tokens[token] for token in harmony.MARKERS if token in special_tokens)
        return HarmonyFormat(marker_ids, control_tokens)
    family = call_family(template)
    family = replace(family, calls=calls_of(response_template) or family.calls)
    reasoning = reasoning_of(response_template) or reasoning_family(template, added_tokens)
    ignored = ignored_markers(template)
    markers = "\n".join((*_markers(family, reasoning), *ignored))
    special = {token: token_id for token, token_id in special_tokens.items() if token in markers}
    return TaggedFormat(family, reasoning, ignored, special, control_tokens)


def _is_tag(token: str) -> bool:
    return token.startswith("<") and token.endswith(">")


def _markers(family: CallFamily, reasoning: ReasoningMarkers | None) -> Iterable[str]:
    yield from family.calls.markers
    if reasoning is not None:
        yield from (reasoning.open, reasoning.close)
