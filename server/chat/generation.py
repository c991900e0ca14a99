"""An accepted chat: the text of a generation becomes content, reasoning and tool calls.

Streamed and whole answers are the same: `ChatGeneration.result()` folds `ChatGeneration.deltas()`.
"""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace

from model.text.chat_formats.fields import Field, FieldDelta
from model.text.chat_formats.router import AnswerRouter
from server.chat.answer import ChatDelta, ChatFinishReason, ChatResult, ToolCallDelta, fold
from server.engine.types import FinishReason
from server.generation.stop_strings import StopStringMatcher
from server.generation.stream import RunningGeneration, TextDelta, Usage


class ChatGeneration:
    """One answer of a chat whose text is content as it is, in a format without reasoning and without calls.

    Iterate `deltas()` or await `result()`, once; `abort()` it when the client has left.
    """

    def __init__(self, generation: RunningGeneration) -> None:
        self._generation = generation

    @property
    def usage(self) -> Usage:
        """Counts so far."""
        return self._generation.usage

    @property
    def stop_string(self) -> str | None:
        """The stop string that has ended the answer, if one did."""
        return self._generation.stop_string

    def abort(self) -> None:
        """End the generation because the client has left. Does nothing if it has ended."""
        self._generation.abort()

    async def deltas(self) -> AsyncIterator[ChatDelta]:
        """Yield the answer as it grows. Raises what `Generation.deltas` raises."""
        async for delta in self._generation.deltas():
            yield _chat_delta(delta, delta.text)

    async def result(self) -> ChatResult:
        """Wait for the end and return the whole answer. Raises what `deltas` raises."""
        deltas = [delta async for delta in self.deltas()]
        return fold(deltas, self.usage)


class RoutedGeneration(ChatGeneration):
    """One answer that a router cuts into fields.

    Stop strings end it where they are in the content: those in reasoning and in arguments mean nothing, and neither do
    those that content before a call and content after it make together.
    """

    def __init__(
        self,
        generation: RunningGeneration,
        router: AnswerRouter,
        stops: StopStringMatcher,
        *,
        max_calls: int | None,
        on_calls: Callable[[Sequence[str], Sequence[int]], Awaitable[None]],
    ) -> None:
        """After `max_calls` calls the answer ends.

        `on_calls` gets the ids of the calls and all token ids of an answer that the model ended with calls, and is
        awaited before its last delta.
        """
        super().__init__(generation)
        self._router, self._stops = router, stops
        self._max_calls, self._on_calls = max_calls, on_calls
        self._call_ids: list[str] = []
        self._token_ids: list[int] = []
        self._unsent_ids: tuple[int, ...] = ()  # of tokens that have made no text yet
        self._reasoning_tokens = 0
        self._is_complete = False  # what comes after it is left out

    @property
    def usage(self) -> Usage:
        return replace(self._generation.usage, reasoning_tokens=self._reasoning_tokens)

    @property
    def stop_string(self) -> str | None:
        return self._stops.matched

    async def deltas(self) -> AsyncIterator[ChatDelta]:
        async for delta in self._generation.deltas():
            routed = self._routed(delta)
            if routed.finish_reason is ChatFinishReason.TOOL_CALLS and not self._is_complete:
                await self._on_calls(self._call_ids, self._token_ids)
            if routed.finish_reason is not None or _says_something(routed):
                self._unsent_ids = ()
                yield routed
            else:
                self._unsent_ids = routed.token_ids

    def _routed(self, delta: TextDelta) -> ChatDelta:
        self._token_ids += delta.token_ids
        in_reasoning = self._router.field is Field.REASONING
        content, reasoning, calls = "", "", []
        for field in self._fields(delta):
            is_too_many = self._max_calls is not None and field.index >= self._max_calls
            if field.field is Field.CONTENT:
                content += self._stops.push(field.text)
            else:
                content += self._stops.finish()
            if field.field is Field.REASONING:
                reasoning += field.text
            elif field.field is not Field.CONTENT and not is_too_many:
                calls.append(self._call_delta(field))
            if self._stops.matched is not None or is_too_many:
                self._is_complete = True
                self._generation.stop()
                break
        if delta.finish_reason is not None:
            content += self._stops.finish()
        routed = _chat_delta(delta, content)
        return replace(
            routed,
            reasoning=reasoning,
            in_reasoning=in_reasoning,
            tool_calls=tuple(calls),
            token_ids=self._unsent_ids + delta.token_ids,
            finish_reason=self._finish_reason(routed.finish_reason),
        )

    def _fields(self, delta: TextDelta) -> list[FieldDelta]:
        if self._is_complete:
            return []
        if self._router.field is Field.REASONING:
            self._reasoning_tokens += len(delta.token_ids)
        fields = self._router.feed(delta.text) if delta.text else []
        if delta.finish_reason is not None:
            fields += self._router.finish(truncated=delta.finish_reason is not FinishReason.STOP)
        return fields

    def _call_delta(self, field: FieldDelta) -> ToolCallDelta:
        if field.field is Field.TOOL_ARGUMENTS:
            return ToolCallDelta(field.index, arguments=field.text)
        self._call_ids.append(f"call_{secrets.token_hex(12)}")
        return ToolCallDelta(field.index, self._call_ids[-1], field.text)

    def _finish_reason(self, reason: ChatFinishReason | None) -> ChatFinishReason | None:
        """An answer is complete even if the token that completed it was the last that it might have."""
        if reason is not None and self._is_complete:
            reason = ChatFinishReason.STOP
        return ChatFinishReason.TOOL_CALLS if reason is ChatFinishReason.STOP and self._call_ids else reason


def _says_something(delta: ChatDelta) -> bool:
    pieces = (delta.content, delta.reasoning, delta.tool_calls, delta.logprobs, delta.prompt_logprobs)
    return any(pieces) or bool(delta.routing or delta.prompt_routing)


def _chat_delta(delta: TextDelta, content: str) -> ChatDelta:
    reason = delta.finish_reason
    return ChatDelta(
        content,
        logprobs=delta.logprobs,
        prompt_logprobs=delta.prompt_logprobs,
        token_ids=delta.token_ids,
        finish_reason=None if reason is None else ChatFinishReason(reason.value),
        routing=delta.routing,
        prompt_routing=delta.prompt_routing,
    )
