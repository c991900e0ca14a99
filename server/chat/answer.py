"""The answer of a chat: deltas as it grows, and the whole that they fold to."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from server.chat.request import ToolCall
from server.generation.logprobs import DecodedLogprobs
from server.generation.stream import Usage
from server.generation.token_routing import RoutedToken


class ChatFinishReason(StrEnum):
    """Why an answer ended."""

    STOP = "stop"  # the model ended it, or a stop string or stop token did
    LENGTH = "length"  # max_tokens is reached, or the model's context is full
    TIMEOUT = "timeout"  # its deadline has come
    ABORT = "abort"  # it was cancelled
    TOOL_CALLS = "tool_calls"  # the model ended it, and wants the results of its calls

    @property
    def is_cut_off(self) -> bool:
        """Whether the model had not ended the answer."""
        return self not in (ChatFinishReason.STOP, ChatFinishReason.TOOL_CALLS)


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """The next piece of the call number `index`. The first piece of a call, and no other, has `id` and `name`."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(slots=True)  # not frozen: that would take five times as long to create, for every token
class ChatDelta:
    """The next piece of an answer. The last one, and no other, has a `finish_reason`.

    `in_reasoning`: its tokens are reasoning, or the marker that ends it.
    """

    content: str = ""
    reasoning: str = ""
    in_reasoning: bool = False
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: tuple[DecodedLogprobs, ...] = ()
    prompt_logprobs: tuple[DecodedLogprobs, ...] = ()
    token_ids: tuple[int, ...] = ()
    finish_reason: ChatFinishReason | None = None
    routing: tuple[RoutedToken, ...] = ()
    prompt_routing: tuple[RoutedToken, ...] = ()


@dataclass(frozen=True, slots=True)
class ChatResult:
    """A whole answer."""

    content: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: ChatFinishReason
    usage: Usage
    logprobs: tuple[DecodedLogprobs, ...] = ()
    prompt_logprobs: tuple[DecodedLogprobs, ...] = ()
    token_ids: tuple[int, ...] = ()
    routing: tuple[RoutedToken, ...] = ()
    prompt_routing: tuple[RoutedToken, ...] = ()


def fold(deltas: Sequence[ChatDelta], usage: Usage) -> ChatResult:
    """Join all deltas of an answer."""
    reason = deltas[-1].finish_reason
    assert reason is not None
    return ChatResult(
        content="".join(delta.content for delta in deltas),
        reasoning="".join(delta.reasoning for delta in deltas),
        tool_calls=joined_calls(call for delta in deltas for call in delta.tool_calls),
        finish_reason=reason,
        usage=usage,
        logprobs=tuple(entry for delta in deltas for entry in delta.logprobs),
        prompt_logprobs=tuple(entry for delta in deltas for entry in delta.prompt_logprobs),
        token_ids=tuple(token_id for delta in deltas for token_id in delta.token_ids),
        routing=tuple(token for delta in deltas for token in delta.routing),
        prompt_routing=tuple(token for delta in deltas for token in delta.prompt_routing),
    )


def joined_calls(deltas: Iterable[ToolCallDelta]) -> tuple[ToolCall, ...]:
    """The calls that the pieces make."""
    calls: dict[int, list[ToolCallDelta]] = {}
    for delta in deltas:
        calls.setdefault(delta.index, []).append(delta)
    return tuple(
        ToolCall(pieces[0].id or "", pieces[0].name or "", "".join(piece.arguments for piece in pieces))
        for pieces in calls.values()
    )
