"""POST /v1/chat/completions: OpenAI's chat, streamed or whole."""

import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, model_validator

from server.api.chunks import ChunkFactory
from server.api.dependencies import RequestAdmission
from server.api.disconnect import until_disconnect
from server.api.messages import Messages, template_messages
from server.api.openai_fields import ChatOnlyFields, OpenAIFields, StreamOptions
from server.api.request_model import ModelName
from server.api.sampling import (
    MAX_CHOICES,
    MAX_LOGPROBS,
    MAX_TOKENS,
    SamplingFields,
    check_total_logprobs,
    unlimited_max_tokens,
)
from server.api.sse import Event, Events, EventStream
from server.api.usage import UsageInfo, usage_of
from server.errors import InvalidRequestError
from server.generation.logprobs import DecodedLogprobs
from server.generation.stream import GenerationResult, RunningGeneration, all_results, interleave

router = APIRouter(tags=["OpenAI"])


class ChatRequest(SamplingFields, OpenAIFields, ChatOnlyFields):
    model: ModelName | None = None
    messages: Messages
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    @model_validator(mode="after")
    def _prefer_new_name(self) -> "ChatRequest":
        if self.max_completion_tokens is not None:
            self.max_tokens = self.max_completion_tokens
        return self

    @property
    def wanted_logprobs(self) -> int | None:
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequestError("top_logprobs needs logprobs to be true.", param="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(BaseModel):
    content: list[TokenLogprob]
    refusal: None = None


class AssistantMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    index: int
    message: AssistantMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: str


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: UsageInfo


@router.post("/v1/chat/completions", response_model=ChatCompletion, summary="Answer a conversation")
async def chat_completions(request: Request, body: ChatRequest, admission: RequestAdmission) -> Any:
    """OpenAI's chat completions. With `stream` the answer is server-sent events that end with `[DONE]`."""
    service, answer_id, created = admission.service, f"chatcmpl-{admission.request_id}", int(time.time())
    service.check_model(body.model)
    n, logprobs = body.n or 1, body.wanted_logprobs
    max_tokens = unlimited_max_tokens(service, n, logprobs)
    sampling = body.sampling_params(service, max_tokens=max_tokens, defaults=service.defaults, logprobs=logprobs)
    prompt = await service.chat_prompt(service.prompts.chat(template_messages(body.messages)))
    check_total_logprobs(service, [prompt], n, sampling)
    generations = admission.start([prompt], sampling, body.stop_strings, n)
    if body.stream:
        chunks = ChunkFactory(answer_id, "chat.completion.chunk", created, service.model_id, body.stream_options)
        return EventStream(_events(chunks, generations))
    results = await until_disconnect(request, all_results(generations))
    return ChatCompletion(
        id=answer_id,
        created=created,
        model=service.model_id,
        choices=[_choice(index, result, body) for index, result in enumerate(results)],
        usage=usage_of(generations, len(results)),
    )


async def _events(chunks: ChunkFactory, generations: Sequence[RunningGeneration]) -> Events:
    for index in range(len(generations)):
        yield chunks.of(_chunk_choice(index, {"role": "assistant", "content": ""}))
    async with aclosing(interleave(generations)) as deltas:
        async for index, delta in deltas:
            if delta.text or delta.logprobs:
                yield chunks.of(_chunk_choice(index, {"content": delta.text}, delta.logprobs))
            if delta.finish_reason is not None:
                yield chunks.of(_chunk_choice(index, {}, finish_reason=delta.finish_reason))
    if chunks.with_usage:
        yield chunks.last(generations, len(generations))


def _chunk_choice(
    index: int, delta: Event, logprobs: Sequence[DecodedLogprobs] = (), finish_reason: str | None = None
) -> Event:
    shown = _choice_logprobs(logprobs).model_dump() if logprobs else None
    return {"index": index, "delta": delta, "logprobs": shown, "finish_reason": finish_reason}


def _choice(index: int, result: GenerationResult, body: ChatRequest) -> Choice:
    return Choice(
        index=index,
        message=AssistantMessage(content=result.text),
        logprobs=_choice_logprobs(result.logprobs) if body.logprobs else None,
        finish_reason=result.finish_reason,
    )


def _choice_logprobs(logprobs: Sequence[DecodedLogprobs]) -> ChoiceLogprobs:
    return ChoiceLogprobs(content=[_token_logprob(entry) for entry in logprobs])


def _token_logprob(entry: DecodedLogprobs) -> TokenLogprob:
    chosen, *top = (
        {"token": token.text, "logprob": token.logprob, "bytes": list(token.data)}
        for token in (entry.chosen, *entry.top)
    )
    return TokenLogprob.model_validate({**chosen, "top_logprobs": top})
