"""POST /api/chat: Ollama's chat, as NDJSON unless `stream` is false."""

from collections.abc import Callable, Iterator
from typing import Any

from fastapi import APIRouter
from pydantic import Field

from server.api.dependencies import Context
from server.api.ollama.answers import NDJSON, Answer, done_reason, shown_calls, shown_logprobs
from server.api.ollama.fields import GenerationBody, Messages, Options, Tools, chat_messages, ignored_message_fields
from server.api.single_answer import start_answer
from server.api.sse import Event, Events
from server.chat.answer import ChatDelta, ToolCallDelta, joined_calls
from server.chat.generation import ChatGeneration
from server.chat.request import ChatRequest

router = APIRouter(tags=["Ollama"])


class OllamaChatRequest(GenerationBody):
    messages: Messages = Field(default_factory=list)
    tools: Tools | None = None

    @property
    def ignored_fields(self) -> tuple[str, ...]:
        return (*super().ignored_fields, *ignored_message_fields(self.messages))

    def chat_request(self) -> ChatRequest:
        return ChatRequest(
            chat_messages(self.messages),
            tools=tuple(definition.tool() for definition in self.tools or ()),
            response_grammar=self.grammar,
            thinking=self.thinking,
        )


@router.post("/api/chat", summary="Answer a conversation, as Ollama does")
async def chat(body: OllamaChatRequest, context: Context) -> Any:
    """Lines of JSON, or one object with `stream` false. Calls come whole, in one line; the last line has counts."""
    answer = Answer(body.model or context.service.model_id)
    if not body.messages:
        context.accept(body)
        return answer.without_prompt({"message": {"role": "assistant", "content": ""}}, body.reason_without_prompt)
    generation = await chat_generation(body, body.chat_request(), context)
    lines = _lines(answer, generation)
    if body.stream:
        return context.stream(lines, NDJSON)
    return await context.until_disconnect(whole(lines, _joined))


async def chat_generation(body: GenerationBody, request: ChatRequest, context: Context) -> ChatGeneration:
    """Start a chat with the options of a body."""
    options, names = body.options or Options(), {"enable_thinking": "think"}
    return await start_answer(context, body, request, options, names=names, logprobs=body.num_logprobs)


async def _lines(answer: Answer, generation: ChatGeneration) -> Events:
    pieces: list[ToolCallDelta] = []
    async for delta in generation.deltas():
        pieces += delta.tool_calls
        logprobs = shown_logprobs(delta.logprobs)
        for message in _messages(delta):
            yield answer.line({"message": message, **logprobs})
            logprobs = {}
        if delta.finish_reason is not None:
            if calls := joined_calls(pieces):
                yield answer.line({"message": {"role": "assistant", "content": "", **shown_calls(calls)}})
            message = {"role": "assistant", "content": ""}
            yield answer.last({"message": message}, done_reason(delta.finish_reason), generation.usage)


def _messages(delta: ChatDelta) -> Iterator[Event]:
    if delta.reasoning:
        yield {"role": "assistant", "content": "", "thinking": delta.reasoning}
    if delta.content or (delta.logprobs and not delta.reasoning):
        yield {"role": "assistant", "content": delta.content}


async def whole(lines: Events, joined: Callable[[list[Event]], Event]) -> Event:
    """The last line of an answer with what all lines have together."""
    found = [line async for line in lines]
    logprobs = [entry for line in found for entry in line.get("logprobs", ())]
    last: Event = found[-1] | joined(found) | ({"logprobs": logprobs} if logprobs else {})
    return last


def _joined(lines: list[Event]) -> Event:
    messages = [line["message"] for line in lines]
    thinking = "".join(message.get("thinking", "") for message in messages)
    calls = [call for message in messages for call in message.get("tool_calls", ())]
    message = {"role": "assistant", "content": "".join(message["content"] for message in messages)}
    message |= {"thinking": thinking} if thinking else {}
    return {"message": message | ({"tool_calls": calls} if calls else {})}
