"""Answers with tool calls as the model wrote them, so that the next turn of an agent finds them in the prefix cache.

A client sends a call back as data. The chat template writes it anew, with other spaces perhaps, or another order of
keys, and then the whole conversation after it would be computed again. Therefore the token ids of such an answer are
kept by the ids of its calls, and put into the next prompt where the rendered text says the same.
"""

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from typing import Any

from model.text.chat_formats.chat_format import ChatFormat, PromptEnd
from model.text.chat_formats.fields import Field, Schemas
from model.text.chat_template import KnownPrefix
from server.chat.request import ChatMessage, ToolCall
from server.generation.prompt import Prompt
from server.generation.run_in_thread import run_in_thread

MAX_TOKENS = 2**22  # of all that is kept, prompts included: 16 MiB
MAX_ANSWERS = 4096


@dataclass(frozen=True, slots=True)
class Meaning:
    """What an answer says, whatever its spaces are. Calls are names and arguments."""

    content: str
    reasoning: str
    calls: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class KnownAnswer:
    """An answer and the prompt before it, whose text has `prompt_length` characters and the digest `prompt_digest`."""

    prompt_length: int
    prompt_digest: bytes
    prompt_end: PromptEnd
    boundaries: tuple[int, ...]
    token_ids: "array[int]"  # of the prompt and the answer, without what ended it
    meaning: Meaning


class KnownAnswers:
    """The answers that were given last."""

    def __init__(self, chat_format: ChatFormat) -> None:
        self._format = chat_format
        self._by_call: OrderedDict[str, KnownAnswer] = OrderedDict()
        self._num_tokens = 0

    async def add(
        self, call_ids: Sequence[str], prompt: Prompt, token_ids: Sequence[int], text: str, schemas: Schemas
    ) -> None:
        """Keep an answer: its ids and its text, without the token that ended it, special tokens included.

        A long text, such as that of a call that writes a file, is read in a thread. An answer to a truncated prompt is
        not kept: the ids are not those of the conversation.
        """
        if prompt.is_truncated:
            return
        end = PromptEnd(prompt.text)
        read = await run_in_thread(partial(self._read, end=end, schemas=schemas, num_calls=len(call_ids)), text)
        if read is None or not prompt.text or call_ids[0] in self._by_call:
            return
        known = KnownAnswer(
            len(prompt.text),
            _digest(prompt.text),
            end.shortened(),
            (*prompt.boundaries, len(prompt.token_ids)),
            array("i", (*prompt.token_ids, *token_ids)),
            read[0],
        )
        self._by_call[call_ids[0]] = known
        self._num_tokens += len(known.token_ids)
        while self._num_tokens > MAX_TOKENS or len(self._by_call) > MAX_ANSWERS:
            self._num_tokens -= len(self._by_call.popitem(last=False)[1].token_ids)

    def with_reasoning(self, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
        """The messages with the reasoning that led to their calls, where the client has left it out."""
        return [self._with_reasoning(message) for message in messages]

    def prefix(self, text: str, messages: Sequence[ChatMessage], schemas: Schemas) -> KnownPrefix | None:
        """The longest part of a rendered conversation that is a known prompt and its answer."""
        for message in reversed(messages):
            known = self._of(message)
            if known is not None:
                return self._prefix(known, text, schemas)
        return None

    def _prefix(self, known: KnownAnswer, text: str, schemas: Schemas) -> KnownPrefix | None:
        if _digest(text[: known.prompt_length]) != known.prompt_digest:
            return None
        turn = text[known.prompt_length :]
        read = self._read(turn, known.prompt_end, schemas, len(known.meaning.calls))
        if read is None or read[0] != known.meaning:
            return None
        rest = turn[read[1] :]
        end = known.prompt_length + len(turn) - len(rest.lstrip())
        return KnownPrefix(end, tuple(known.token_ids), (*known.boundaries, len(known.token_ids)))

    def _of(self, message: ChatMessage) -> KnownAnswer | None:
        return self._by_call.get(message.tool_calls[0].id) if message.tool_calls else None

    def _with_reasoning(self, message: ChatMessage) -> ChatMessage:
        known = self._of(message)
        if known is None or message.reasoning:
            return message
        return replace(message, reasoning=known.meaning.reasoning or None)

    def _read(self, text: str, end: PromptEnd, schemas: Schemas, num_calls: int) -> tuple[Meaning, int] | None:
        """What a text says up to its call number `num_calls`, and where that ends; None if there are fewer."""
        complete = self._end_of_calls(text, end, schemas, num_calls)
        router = self._format.router(schemas, end)
        if complete is None or router is None:
            return None
        texts: dict[tuple[Field, int], str] = {}
        for field in [*router.feed(text[:complete]), *router.finish()]:
            texts[field.field, field.index] = texts.get((field.field, field.index), "") + field.text
        calls = tuple(
            ToolCall("", texts[Field.TOOL_NAME, index], texts.get((Field.TOOL_ARGUMENTS, index), ""))
            for index in range(num_calls)
        )
        meant = tuple((call.name, call.arguments_object) for call in calls)
        return Meaning(texts.get((Field.CONTENT, 0), ""), texts.get((Field.REASONING, 0), ""), meant), complete

    def _end_of_calls(self, text: str, end: PromptEnd, schemas: Schemas, num_calls: int) -> int | None:
        """The place in the text where its first `num_calls` calls are complete; None if it has fewer."""
        router = self._format.router(schemas, end)
        if router is None:
            return None
        router.feed(text)
        router.finish()
        return next((place for count, place in router.call_ends if count >= num_calls), None)


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
