"""The format of a checkpoint's answers: which router reads them, and which special tokens the router has to see."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from model.text.chat_formats.families import CallIds
from model.text.chat_formats.fields import Schemas
from model.text.chat_formats.router import AnswerParser, AnswerRouter

END_CHARACTERS = 512  # of the prompt: the beginning of an answer is among them


@dataclass(frozen=True, slots=True)
class PromptEnd:
    """The end of a rendered prompt, and what the last message has if the answer goes on with it."""

    text: str = ""
    continued: str | None = None

    def shortened(self) -> "PromptEnd":
        """As much as formats look at."""
        return PromptEnd(self.text[-END_CHARACTERS:], self.continued)

    def last_message(self, start: str) -> str:
        """The message that the answer goes on with, which begins with the last `start`; empty where there is none."""
        begun = self.text.rfind(start, -END_CHARACTERS if self.continued is None else 0)
        return self.text[begun:] if begun >= 0 else ""


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
    def call_ids(self) -> CallIds:
        """The ids of calls that the chat template accepts."""

    @property
    def snapshot_token_ids(self) -> frozenset[int]:
        """Tokens after which other conversations may go on differently: the end of reasoning, a call's beginning."""

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
