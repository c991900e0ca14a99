"""The items of an input as the messages of a chat. Reasoning, text and calls that follow each other are one turn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from server.api.responses.input_items import (
    FunctionCallItem,
    FunctionCallOutputItem,
    InputItem,
    MessageItem,
    ReasoningItem,
    joined,
)
from server.chat.request import ChatMessage, ToolCall


@dataclass(slots=True)
class _AssistantTurn:
    reasoning: str = ""
    content: str = ""
    calls: list[ToolCall] = field(default_factory=list)

    @property
    def has_answer(self) -> bool:
        return bool(self.content or self.calls)

    def message(self) -> ChatMessage:
        return ChatMessage("assistant", self.content, reasoning=self.reasoning or None, tool_calls=tuple(self.calls))


def chat_messages(instructions: str | None, items: Sequence[InputItem]) -> list[ChatMessage]:
    """`instructions` and the system messages at the beginning are one system message: templates know only one."""
    messages = list(_messages(items))
    first = next((index for index, message in enumerate(messages) if message.role != "system"), len(messages))
    system = [*([instructions] if instructions else []), *(message.content for message in messages[:first])]
    return [*([ChatMessage("system", "\n\n".join(system))] if system else []), *messages[first:]]


def _messages(items: Sequence[InputItem]) -> Iterator[ChatMessage]:
    turn = _AssistantTurn()
    for item in items:
        is_next_turn = turn.has_answer and isinstance(item, ReasoningItem | MessageItem)
        if is_next_turn or not _is_of_assistant(item):
            if turn.has_answer:
                yield turn.message()
            turn = _AssistantTurn()
        if isinstance(item, ReasoningItem):
            turn.reasoning += joined(item.content) or joined(item.summary)
        elif isinstance(item, FunctionCallItem):
            turn.calls.append(ToolCall(item.call_id, item.name, item.arguments))
        elif isinstance(item, FunctionCallOutputItem):
            yield ChatMessage("tool", joined(item.output), tool_call_id=item.call_id)
        elif item.role == "assistant":
            turn.content = joined(item.content)
        else:
            yield ChatMessage("system" if item.role == "developer" else item.role, joined(item.content))
    if turn.has_answer:
        yield turn.message()


def _is_of_assistant(item: InputItem) -> bool:
    return not isinstance(item, FunctionCallOutputItem) and not (
        isinstance(item, MessageItem) and item.role != "assistant"
    )
