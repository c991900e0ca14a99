"""The answers of gpt-oss ("harmony"): messages, each in a channel and perhaps to a recipient.

    <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...<|return|>

The channel "final" is content, "analysis" is reasoning, and what is sent to `functions.f` calls f. Other messages in
the channel "commentary" are for the user too. See https://github.com/openai/harmony.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.text.chat_formats.chat_format import Constraints, PromptEnd, ThinkingMarkers
from model.text.chat_formats.families import PLAIN_JSON, CallIds
from model.text.chat_formats.fields import Field, FieldSink, Schemas
from model.text.chat_formats.grammar import ANSWER, GrammarBuilder, one_of
from model.text.chat_formats.json_values import pass_object
from model.text.chat_formats.reader import Reader, Reading, drop, markers
from model.text.chat_formats.router import AnswerRouter
from model.text.chat_formats.schema_parts import object_schema

START, CHANNEL, MESSAGE, END = "<|start|>", "<|channel|>", "<|message|>", "<|end|>"
CALL, RETURN, CONSTRAIN = "<|call|>", "<|return|>", "<|constrain|>"
MARKERS = (START, CHANNEL, MESSAGE, END, CALL, RETURN, CONSTRAIN)
NEXT = f"{START}assistant"
ANALYSIS = f"{CHANNEL}analysis{MESSAGE}"
FINAL = f"{CHANNEL}final{MESSAGE}"
_ENDS = markers(START, CHANNEL, END, CALL, RETURN)  # of the text of a message
_RECIPIENT = re.compile(r"\bto=(functions\.)?([A-Za-z0-9_.:-]+)")


def uses_harmony(special_tokens: Mapping[str, int]) -> bool:
    """Whether a tokenizer has the special tokens of the format."""
    return special_tokens.keys() >= {START, CHANNEL, MESSAGE, END}


def last_message(ids: Sequence[int], special_tokens: Mapping[str, int]) -> Sequence[int]:
    """The ids from the last <|start|> on, or from the last marker if there is none; empty without any marker."""
    markers_by_id = {special_tokens[marker]: marker for marker in (START, CHANNEL, MESSAGE, END)}
    places = [place for place, token_id in enumerate(ids) if token_id in markers_by_id]
    starts = [place for place in places if markers_by_id[ids[place]] == START]
    return ids[starts[-1] if starts else places[-1] :] if places else ()


@dataclass(frozen=True, slots=True)
class HarmonyAnswer:
    """`prefix` is what the prompt has of the messages that the answer goes on with.

    Text before any marker is content where it goes on with a text that has no messages, and where no marker follows.
    """

    prefix: str = ""

    def read_answer(self, reader: Reader, sink: FieldSink) -> Reading[None]:
        header, has_message, _ = self.prefix.rpartition(MESSAGE)
        stop: str | None = MESSAGE
        if has_message or not self.prefix:
            stop = yield from _message(header.rpartition(START)[2], reader, sink, is_continued=True)
            header = ""
        else:
            begun: list[str] = []
            stop = yield from reader.until(markers(MESSAGE, START, CHANNEL, END, CALL, RETURN), begun.append)
            header = self.prefix + "".join(begun)
            if stop in (None, CALL, RETURN) and not reader.was_cut_off:
                sink.text("".join(begun))
        while stop is not None:
            if stop in (START, CHANNEL):
                stop, header = yield from _header(header + stop, reader)
            elif stop == MESSAGE:
                stop = yield from _message(header, reader, sink)
                header = ""
            else:
                stop = yield from reader.until(markers(START, CHANNEL, MESSAGE), drop)


@dataclass(frozen=True, slots=True)
class HarmonyFormat:
    """The messages of gpt-oss."""

    marker_ids: frozenset[int]
    control_tokens: Mapping[str, int]
    call_ids: CallIds = CallIds.ANY

    @property
    def snapshot_token_ids(self) -> frozenset[int]:
        return frozenset({self.control_tokens[END]})

    @property
    def end_ids(self) -> frozenset[int]:
        ends = (CALL, RETURN)
        return frozenset(self.control_tokens[token] for token in ends if token in self.control_tokens)

    def write_calls(self, calls: Sequence[tuple[str, Any]]) -> str:
        return PLAIN_JSON.calls.write(calls)

    def thinking(self, end: PromptEnd) -> ThinkingMarkers | None:
        return ThinkingMarkers(ANALYSIS, END, END + NEXT)

    def grammar(self, wanted: Constraints, end: PromptEnd) -> str | None:
        if wanted.is_empty:
            return None
        build = GrammarBuilder(self.control_tokens)
        answers = [call_grammar(build, *each) for each in wanted.schemas.items()]
        if not wanted.required:
            content = ANSWER if wanted.has_answer else build.text()
            answers.append(f"{build.literal(FINAL)} {content}")
        return build.grammar(f"{analysis_grammar(build)} {one_of(answers)}")

    def router(self, schemas: Schemas, end: PromptEnd) -> AnswerRouter | None:
        return AnswerRouter(self.content_parser(end), schemas)

    def content_start(self, end: PromptEnd) -> str:
        return FINAL if end.text.endswith(NEXT) else ""

    def content_parser(self, end: PromptEnd) -> HarmonyAnswer:
        return HarmonyAnswer(end.last_message(START))


def analysis_grammar(build: GrammarBuilder) -> str:
    """Reasoning, if the model wants it, and the beginning of the next message."""
    return f"({build.literal(ANALYSIS)} {build.until(END)} {build.literal(NEXT)})?"


def call_grammar(build: GrammarBuilder, name: str, schema: Mapping[str, Any]) -> str:
    """A call of one tool; the token that ends it ends the answer."""
    header = f"{CHANNEL}commentary to=functions.{name} {CONSTRAIN}json{MESSAGE}"
    return f"{build.literal(header)} {build.json(object_schema(schema))}"


def _header(begun: str, reader: Reader) -> Reading[tuple[str | None, str]]:
    """The marker that ends a header, and the header; a new one may begin within it."""
    pieces = [begun]
    stop = yield from reader.until(markers(MESSAGE, START, END), pieces.append)
    return stop, "".join(pieces) if stop == MESSAGE else ""


def _message(header: str, reader: Reader, sink: FieldSink, *, is_continued: bool = False) -> Reading[str | None]:
    """The text of one message; returns the marker that ends it."""
    recipient = _RECIPIENT.search(header)
    channel = header.partition(CHANNEL)[2].split("<")[0].split()
    emit = sink.text
    if recipient is not None:
        emit = drop  # after the arguments of a call, and in calls of a tool of the checkpoint's own
        if recipient[2] in sink.schemas or (recipient[1] and sink.schemas):
            yield from _call(recipient[2], reader, sink)
    elif is_continued:
        sink.enter(_field(channel), is_continued=True)
    else:
        sink.enter_message(_field(channel))
    return (yield from reader.until(_ENDS, emit))


def _call(name: str, reader: Reader, sink: FieldSink) -> Reading[None]:
    """The text of a message to a tool: what is no JSON object is passed on too."""
    sink.begin_call(name)
    yield from reader.space()
    if not (yield from pass_object(reader, sink.arguments)):
        yield from reader.up_to(_ENDS, sink.arguments)
    sink.end_call(was_cut_off=reader.was_cut_off)
    sink.call_ends.append((sink.num_calls, reader.offset))


def _field(channel: list[str]) -> Field:
    return Field.REASONING if channel[:1] == ["analysis"] else Field.CONTENT
