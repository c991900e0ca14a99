"""The answers of Muse Glimmer ("ATEM"): messages, each to a recipient, which are the model itself, the user or a tool.

     to=self<|message|>...<|eom|><|start|>assistant to=user<|message|>...<|eot|>

What the model writes to itself is reasoning, and a message to a tool has a call of it in tags. <|eot|> ends the answer.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.text.chat_formats.calls.arguments import ParameterTags
from model.text.chat_formats.calls.tagged_calls import TaggedCalls
from model.text.chat_formats.chat_format import Constraints, PromptEnd, ThinkingMarkers
from model.text.chat_formats.families import CallIds
from model.text.chat_formats.fields import Field, FieldSink, Schemas
from model.text.chat_formats.grammar import ANSWER, GrammarBuilder, one_of, separated
from model.text.chat_formats.reader import Reader, Reading, drop, markers
from model.text.chat_formats.router import AnswerRouter

START, MESSAGE, END_MESSAGE, END_TURN = "<|start|>", "<|message|>", "<|eom|>", "<|eot|>"
NEXT = f"{START}assistant"
TO_SELF, TO_USER = f" to=self{MESSAGE}", f" to=user{MESSAGE}"
CALLS = TaggedCalls(
    '<atem:invoke name="',
    ('">',),
    "</atem:invoke>",
    "<atem:function_calls>",
    "</atem:function_calls>",
    ParameterTags('<atem:parameter name="', {'">': None}, "</atem:parameter>"),
)
MARKERS = (START, MESSAGE, END_MESSAGE, END_TURN, *CALLS.markers)
_ENDS = markers(START, END_MESSAGE, END_TURN)  # of the text of a message
_RECIPIENT = re.compile(r"\bto=([A-Za-z0-9_.:-]+)")


def uses_atem(template: str) -> bool:
    """Whether a chat template writes the tags of the format."""
    return CALLS.section_open in template


@dataclass(frozen=True, slots=True)
class AtemAnswer:
    """`prefix` is what the prompt has of the message that the answer begins with; empty: a text without messages.

    An answer that has no message at all is content.
    """

    prefix: str = ""

    def read_answer(self, reader: Reader, sink: FieldSink) -> Reading[None]:
        header, has_message, _ = self.prefix.rpartition(START)[2].partition(MESSAGE)
        if has_message or not self.prefix:
            yield from _message(header, reader, sink, is_continued=True)
            header = ""
        while not reader.is_exhausted:
            pieces: list[str] = []
            stop = yield from reader.until(markers(START, MESSAGE, END_MESSAGE, END_TURN), pieces.append)
            if stop == MESSAGE:
                yield from _message(header + "".join(pieces), reader, sink)
            elif header and stop in (None, END_TURN) and not reader.was_cut_off:
                sink.text("".join(pieces))
            header = ""


@dataclass(frozen=True, slots=True)
class AtemFormat:
    marker_ids: frozenset[int]
    control_tokens: Mapping[str, int]
    call_ids: CallIds = CallIds.ANY

    @property
    def snapshot_token_ids(self) -> frozenset[int]:
        return self._ids(END_MESSAGE)

    @property
    def end_ids(self) -> frozenset[int]:
        return self._ids(END_TURN)

    def write_calls(self, calls: Sequence[tuple[str, Any]]) -> str:
        return CALLS.write(calls)

    def thinking(self, end: PromptEnd) -> ThinkingMarkers | None:
        return ThinkingMarkers(TO_SELF, END_MESSAGE, END_MESSAGE + NEXT)

    def grammar(self, wanted: Constraints, end: PromptEnd) -> str | None:
        if wanted.is_empty:
            return None
        build = GrammarBuilder(self.control_tokens)
        answers = []
        if wanted.schemas:
            call = one_of([_call_grammar(build, name, {name: each}) for name, each in wanted.schemas.items()])
            answers.append(separated(build.rule(call), build.literal(END_MESSAGE + NEXT), many=wanted.many))
        if not wanted.required:
            answers.append(f"{build.literal(TO_USER)} {ANSWER if wanted.has_answer else build.text()}")
        reasoning = f"({build.literal(TO_SELF)} {build.until(END_MESSAGE)} {build.literal(NEXT)})?"
        return build.grammar(f"{reasoning} {one_of(answers)}")

    def router(self, schemas: Schemas, end: PromptEnd) -> AnswerRouter | None:
        return AnswerRouter(self.content_parser(end), schemas)

    def content_start(self, end: PromptEnd) -> str:
        return TO_USER if end.text.endswith(NEXT) else ""

    def content_parser(self, end: PromptEnd) -> AtemAnswer:
        return AtemAnswer(end.last_message(START))

    def _ids(self, marker: str) -> frozenset[int]:
        return frozenset({self.control_tokens[marker]} if marker in self.control_tokens else ())


def _call_grammar(build: GrammarBuilder, name: str, schemas: Schemas) -> str:
    """A message with one call of a tool."""
    opened = build.literal(f" to={name}{MESSAGE}{CALLS.section_open}")
    return f"{opened} {CALLS.grammar(build, schemas, many=False)}"


def _message(header: str, reader: Reader, sink: FieldSink, *, is_continued: bool = False) -> Reading[None]:
    """The text of one message, up to the marker that ends it."""
    recipient = _RECIPIENT.search(header)
    name = recipient[1] if recipient else "user"
    if name in ("self", "user"):
        field = Field.REASONING if name == "self" else Field.CONTENT
        if is_continued:
            sink.enter(field, is_continued=True)
        else:
            sink.enter_message(field)
        yield from reader.until(_ENDS, sink.text)
    elif name in sink.schemas:
        start = reader.offset
        yield from reader.part(_ENDS, lambda text: _call(name, text, start, sink))
    else:  # a tool that the request does not have
        yield from reader.until(_ENDS, drop)


def _call(name: str, text: Reader, start: int, sink: FieldSink) -> Reading[None]:
    """The text of a message to a tool, which begins at `start`. What is no call in tags is passed on as arguments."""
    text.set_mark()
    yield from text.space()
    opened = yield from text.take_if(CALLS.section_open)
    found = opened is not None and (yield from CALLS.read(opened, text, sink))
    if not found and not text.was_cut_off:
        sink.begin_call(name)
        sink.arguments(text.take_marked())
        yield from text.until(markers(), sink.arguments)
        sink.end_call(was_cut_off=text.was_cut_off)
    sink.call_ends.append((sink.num_calls, start + text.offset))
