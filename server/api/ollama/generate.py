"""POST /api/generate: Ollama's completions. The prompt is a user's message, or with `raw` a text to continue."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field

from server.api.dependencies import Context
from server.api.ollama.answers import NDJSON, Answer, done_reason, shown_logprobs
from server.api.ollama.chat import chat_generation, whole
from server.api.ollama.fields import GenerationBody, Options
from server.api.request_model import Text
from server.api.sampling import answer_sampling
from server.api.sse import Event, Events
from server.chat.answer import ChatDelta, ChatFinishReason
from server.chat.generation import ChatGeneration
from server.chat.request import ChatMessage, ChatRequest
from server.generation.stream import RunningGeneration

router = APIRouter(tags=["Ollama"])


class OllamaGenerateRequest(GenerationBody):
    prompt: Text = ""
    system: Annotated[Text, Field(description="A system message before the prompt; not with raw.")] | None = None
    raw: Annotated[bool, Field(description="true: the prompt is continued as it is, without a chat template.")] = False

    def chat_request(self) -> ChatRequest:
        system = [ChatMessage("system", self.system)] if self.system else []
        messages = (*system, ChatMessage("user", self.prompt))
        return ChatRequest(messages, response_grammar=self.grammar, thinking=self.thinking)


@router.post("/api/generate", summary="Answer a prompt, as Ollama does")
async def generate(body: OllamaGenerateRequest, context: Context) -> Any:
    """Lines of JSON, or one object with `stream` false. The last line has counts and times in nanoseconds."""
    answer = Answer(body.model or context.service.model_id)
    if not body.prompt:
        context.accept(body)
        return answer.without_prompt({"response": ""}, body.reason_without_prompt)
    if body.raw:
        running = await _continued(body, context)
        lines = _lines(answer, _plain_deltas(running), running)
    else:
        chat = await chat_generation(body, body.chat_request(), context)
        lines = _lines(answer, chat.deltas(), chat)
    if body.stream:
        return context.stream(lines, NDJSON)
    return await context.until_disconnect(whole(lines, _joined))


async def _continued(body: OllamaGenerateRequest, context: Context) -> RunningGeneration:
    for name in ("system", "think"):  # the chat template's
        if getattr(body, name):
            body.ignore(name)
    service, options = context.accept(body), body.options or Options()
    prompt = await service.text_prompt(body.prompt, parse_special=True)
    sampling = answer_sampling(service, options, prompt, logprobs=body.num_logprobs)
    if body.grammar is not None:
        sampling = replace(sampling, grammar=await service.compile_grammar(body.grammar))
    (generation,) = context.admission.start([prompt], sampling, options.text_options)
    return generation


async def _plain_deltas(generation: RunningGeneration) -> AsyncIterator[ChatDelta]:
    async for delta in generation.deltas():
        reason = delta.finish_reason
        yield ChatDelta(
            delta.text,
            logprobs=delta.logprobs,
            finish_reason=None if reason is None else ChatFinishReason(reason.value),
        )


async def _lines(
    answer: Answer, deltas: AsyncIterator[ChatDelta], generation: ChatGeneration | RunningGeneration
) -> Events:
    async for delta in deltas:
        logprobs = shown_logprobs(delta.logprobs)
        if delta.reasoning:
            yield answer.line({"response": "", "thinking": delta.reasoning, **logprobs})
            logprobs = {}
        if delta.content or logprobs:
            yield answer.line({"response": delta.content, **logprobs})
        if delta.finish_reason is not None:
            yield answer.last({"response": ""}, done_reason(delta.finish_reason), generation.usage)


def _joined(lines: list[Event]) -> Event:
    thinking = "".join(line.get("thinking", "") for line in lines)
    text = "".join(line["response"] for line in lines)
    return {"response": text} | ({"thinking": thinking} if thinking else {})
