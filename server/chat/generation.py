"""An accepted chat: the text of a generation becomes content, reasoning and tool calls.

Streamed and whole answers are the same: `ChatGeneration.result()` folds `ChatGeneration.deltas()`.
"""

from collections.abc import AsyncIterator

from server.chat.answer import ChatDelta, ChatFinishReason, ChatResult, fold
from server.generation.stream import RunningGeneration, TextDelta, Usage


class ChatGeneration:
    """One answer of a chat. Iterate `deltas()` or await `result()`, once; `abort()` it when the client has left."""

    def __init__(self, generation: RunningGeneration) -> None:
        self._generation = generation

    @property
    def usage(self) -> Usage:
        """Counts so far."""
        return self._generation.usage

    def abort(self) -> None:
        """End the generation because the client has left. Does nothing if it has ended."""
        self._generation.abort()

    async def deltas(self) -> AsyncIterator[ChatDelta]:
        """Yield the answer as it grows. Raises what `Generation.deltas` raises."""
        async for delta in self._generation.deltas():
            yield _plain_delta(delta)

    async def result(self) -> ChatResult:
        """Wait for the end and return the whole answer. Raises what `deltas` raises."""
        deltas = [delta async for delta in self.deltas()]
        return fold(deltas, self.usage)


def _plain_delta(delta: TextDelta) -> ChatDelta:
    reason = delta.finish_reason
    return ChatDelta(
        delta.text,
        logprobs=delta.logprobs,
        prompt_logprobs=delta.prompt_logprobs,
        token_ids=delta.token_ids,
        finish_reason=None if reason is None else ChatFinishReason(reason.value),
    )
