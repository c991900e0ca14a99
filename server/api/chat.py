"""POST /v1/chat/completions: OpenAI's chat, streamed or whole."""

import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field, model_validator

from server.api.chunks import ChunkFactory, ChunkHead, StreamOptions
from server.api.dependencies import Context
from server.api.logprobs import ChoiceLogprobs, PromptLogprobs, chat_logprobs, prompt_logprobs, with_prompt_logprobs
from server.api.messages import ChatFields, Messages, ignored_message_fields
from server.api.prompts import PromptLength, truncated
from server.api.request_model import ModelName
from server.api.response_format import GrammarFields
from server.api.response_model import Omittable, UsageInfo, Warnings, usage_of
from server.api.sampling import (
    CacheSalt,
    Choices,
    LogprobsField,
    MaxTokens,
    NumLogprobs,
    SamplingFields,
    check_total_logprobs,
    unlimited_max_tokens,
)
from server.api.sse import Event, Events
from server.engine.types import SamplingParams
from server.errors import InvalidRequestError
from server.generation.logprobs import DecodedLogprobs, limited
from server.generation.prompt import Prompt
from server.generation.service import GenerationService
from server.generation.stream import GenerationResult, all_results, interleave

router = APIRouter(tags=["OpenAI"])


class ChatRequest(SamplingFields, ChatFields, GrammarFields):
    model: ModelName | None = None
    messages: Messages
    max_completion_tokens: MaxTokens | None = None
    n: Choices | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: Annotated[LogprobsField, Field(description="A number stands for true and top_logprobs.")] | None = None
    top_logprobs: NumLogprobs | None = None
    prompt_logprobs: Annotated[NumLogprobs, Field(description="Not in streams.")] | None = None
    return_token_ids: bool = False
    truncate_prompt_tokens: PromptLength | None = None
    cache_salt: CacheSalt | None = None
    add_special_tokens: Annotated[bool, Field(description="Ignored: the chat template writes them.")] = False

    @model_validator(mode="after")
    def _prefer_new_name(self) -> "ChatRequest":
        if self.max_completion_tokens is not None:
            self.max_tokens = self.max_completion_tokens
        return self

    @property
    def ignored_fields(self) -> tuple[str, ...]:
        options = self.stream_options.ignored_fields("stream_options") if self.stream_options else ()
        return (*super().ignored_fields, *options, *ignored_message_fields(self.messages))

    @property
    def num_logprobs(self) -> int | None:
        """How many alternatives per token; None: no log-probabilities."""
        if self.logprobs is True:
            return self.top_logprobs or 0
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequestError("top_logprobs needs logprobs to be true.", param="top_logprobs")
        return (self.top_logprobs or self.logprobs) if self.logprobs else None


class AssistantMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    index: int
    message: AssistantMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: str
    token_ids: Omittable[list[int]] = None


class ChatCompletion(BaseModel):
    """`warnings` names fields that were ignored. The last three are there only if there is something to say."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: UsageInfo
    prompt_logprobs: Omittable[PromptLogprobs] = None
    prompt_token_ids: Omittable[list[int]] = None
    warnings: Warnings = []


@router.post("/v1/chat/completions", response_model=ChatCompletion, summary="Answer a conversation")
async def chat_completions(body: ChatRequest, context: Context) -> Any:
    """OpenAI's chat completions. With `stream` the answer is server-sent events that end with `[DONE]`."""
    _ignore_unused_variables(context.admission.service, body)
    service, n = context.accept(body), body.n or 1
    prompt, sampling = await _prompt(service, body), _sampling(service, body)
    sampling = replace(sampling, grammar=await body.compile_grammar(service))
    check_total_logprobs(service, [prompt], n, sampling)
    generations = context.admission.start([prompt], sampling, body.text_options, n)
    head = ChunkHead(
        f"chatcmpl-{context.admission.request_id}",
        "chat.completion.chunk",
        int(time.time()),
        body.model or service.model_id,
    )
    extras = _extras(body, prompt)
    if body.stream:
        return context.stream(_events(ChunkFactory(head, body.stream_options, generations, n, extras), body))
    results = await context.until_disconnect(all_results(generations))
    return ChatCompletion(
        id=head.id,
        created=head.created,
        model=head.model,
        choices=[_choice(index, result, body) for index, result in enumerate(results)],
        usage=usage_of(generations, n),
        prompt_logprobs=prompt_logprobs(prompt, results[0], body.prompt_logprobs),
        **extras,
    )


def _sampling(service: GenerationService, body: ChatRequest) -> SamplingParams:
    unlimited = unlimited_max_tokens(service, body.n or 1, body.num_logprobs)
    sampling = body.sampling_params(
        service, max_tokens=unlimited, unlimited=unlimited, defaults=service.defaults, logprobs=body.num_logprobs
    )
    return with_prompt_logprobs(sampling, body.prompt_logprobs, stream=bool(body.stream))


def _ignore_unused_variables(service: GenerationService, body: ChatRequest) -> None:
    """Name what the client asks of the chat template, if the template does not know it."""
    asked = {"reasoning_effort": body.reasoning_effort not in (None, "none"), "enable_thinking": body.enable_thinking}
    for name, wanted in asked.items():
        if wanted and not service.template_uses(name):
            body.ignore(name)


async def _prompt(service: GenerationService, body: ChatRequest) -> Prompt:
    prompt = await body.chat_prompt(service)
    if body.prompt_logprobs is not None:
        prompt = prompt.without_boundaries()  # scoring starts at the last boundary
    return truncated(prompt, body.truncate_prompt_tokens, service).salted(body.cache_salt)


def _extras(body: ChatRequest, prompt: Prompt) -> dict[str, Any]:
    """Fields of the answer that are there only if there is something to say."""
    extras: dict[str, Any] = {"warnings": warnings} if (warnings := body.warnings) else {}
    return extras | ({"prompt_token_ids": list(prompt.token_ids)} if body.return_token_ids else {})


async def _events(chunks: ChunkFactory, body: ChatRequest) -> Events:
    for index in range(chunks.n):
        yield chunks.of(_chunk_choice(index, {"role": "assistant", "content": ""}))
    async with aclosing(interleave(chunks.generations)) as deltas:
        async for index, delta in deltas:
            logprobs = limited(delta.logprobs, body.num_logprobs)
            token_ids = {"token_ids": delta.token_ids} if body.return_token_ids and delta.token_ids else {}
            if delta.text or logprobs or token_ids:
                yield chunks.of(_chunk_choice(index, {"content": delta.text}, logprobs) | token_ids)
            if delta.finish_reason is not None:
                yield chunks.of(_chunk_choice(index, {}, finish_reason=delta.finish_reason))
    if chunks.with_usage:
        yield chunks.last()


def _chunk_choice(
    index: int, delta: Event, logprobs: Sequence[DecodedLogprobs] = (), finish_reason: str | None = None
) -> Event:
    shown = chat_logprobs(logprobs).model_dump() if logprobs else None
    return {"index": index, "delta": delta, "logprobs": shown, "finish_reason": finish_reason}


def _choice(index: int, result: GenerationResult, body: ChatRequest) -> Choice:
    return Choice(
        index=index,
        message=AssistantMessage(content=result.text),
        logprobs=chat_logprobs(limited(result.logprobs, body.num_logprobs)) if body.logprobs else None,
        finish_reason=result.finish_reason,
        token_ids=list(result.token_ids) if body.return_token_ids else None,
    )
