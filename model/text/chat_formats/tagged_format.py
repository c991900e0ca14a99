"""Answers with reasoning and calls between markers, as most models write them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from model.text.chat_formats.chat_format import Constraints, PromptEnd, ThinkingMarkers
from model.text.chat_formats.families import PLAIN_JSON, CallFamily, CallIds
from model.text.chat_formats.fields import Schemas
from model.text.chat_formats.grammar import ANSWER, GrammarBuilder
from model.text.chat_formats.router import AnswerParser, AnswerRouter
from model.text.chat_formats.tagged_answer import ReasoningMarkers, TaggedAnswer

_NO_OBJECT = r"/[^{\[\s](?s:.*)/"  # text that is not a call, in a format without markers


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
    def call_ids(self) -> CallIds:
        return self.family.call_ids

    @property
    def snapshot_token_ids(self) -> frozenset[int]:
        texts = (*self.family.calls.opens, self.reasoning.close if self.reasoning else "")
        return frozenset(self.control_tokens[text] for text in texts if text in self.control_tokens)

    @property
    def end_ids(self) -> frozenset[int]:
        return frozenset(self.control_tokens[end] for end in self.family.ends if end in self.control_tokens)

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
