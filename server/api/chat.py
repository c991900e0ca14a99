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
from server.api.logprobs import (
    ChoiceLogprobs,
    PromptLogprobs,
    chat_logprobs,
    prompt_logprobs,
    total_logprobs,
    with_prompt_logprobs,
)
from server.api.messages import ChatFields, Messages, ignored_message_fields
from server.api.prompts import PromptLength, truncated
from server.api.request_model import ModelName
from server.api.response_format import GrammarFields
from server.api.response_model import Omittable, UsageInfo, Warnings, usage_of
from server.api.routing_fields import AnswerRouting, RoutingFields, answer_routing, piece_routing
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
from server.api.scheduling import SchedulingFields
from server.api.sse import Event, Events
from server.api.tools import AnswerToolCall, answer_tool_call, streamed_tool_call
from server.chat.answer import ChatDelta, ChatResult
from server.chat.generation import ChatGeneration
from server.chat.request import ChatRequest
from server.engine.types import RoutingParams, SamplingParams
from server.errors import InvalidRequestError
from server.generation.logprobs import DecodedLogprobs, limited
from server.generation.prompt import Prompt
from server.generation.run_in_thread import run_in_thread
from server.generation.service import GenerationService
from server.generation.stream import all_results, interleave

router = APIRouter(tags=["OpenAI"])


class ChatCompletionRequest(SamplingFields, SchedulingFields, ChatFields, GrammarFields, RoutingFields):
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
    def _prefer_new_name(self) -> "ChatCompletionRequest":
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
    """`content` is null where there are only calls. `reasoning` is vLLM's and OpenRouter's name for the same text."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    reasoning_content: Omittable[str] = None
    reasoning: Omittable[str] = None
    tool_calls: Omittable[list[AnswerToolCall]] = None


class ChatChoice(BaseModel):
    index: int
    message: AssistantMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: str
    token_ids: Omittable[list[int]] = None
    routing: Omittable[AnswerRouting] = None


class ChatCompletion(BaseModel):
    """`warnings` names fields that were ignored. The last three are there only if there is something to say."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageInfo
    prompt_logprobs: Omittable[PromptLogprobs] = None
    prompt_token_ids: Omittable[list[int]] = None
    warnings: Warnings = []


@router.post("/v1/chat/completions", response_model=ChatCompletion, summary="Answer a conversation")
async def chat_completions(body: ChatCompletionRequest, context: Context) -> Any:
    """OpenAI's chat completions. With `stream` the answer is server-sent events that end with `[DONE]`."""
    request, n = replace(body.chat_request(body.cache_salt), response_grammar=body.answer_grammar), body.n or 1
    for name in context.chat.unknown_variables(request):
        body.ignore(name)
    service = context.accept(body)
    prompt, sampling = await _prompt(context, body, request), _sampling(service, body)
    check_total_logprobs(service, [prompt], n, sampling)
    answers = await context.chat.start(context.admission, request, prompt, sampling, body.text_options, n)
    head = ChunkHead(
        f"chatcmpl-{context.admission.request_id}",
        "chat.completion.chunk",
        int(time.time()),
        body.model or service.model_id,
    )
    extras, routing = _extras(body, prompt), context.admission.routing
    if body.stream:
        chunks = ChunkFactory(head, body.stream_options, answers, n, extras)
        return context.stream(_events(chunks, answers, body, routing))

    def completion(results: Sequence[ChatResult]) -> ChatCompletion:
        return ChatCompletion(
            id=head.id,
            created=head.created,
            model=head.model,
            choices=[_choice(index, result, body, routing) for index, result in enumerate(results)],
            usage=usage_of(answers, n),
            prompt_logprobs=prompt_logprobs(prompt, results[0], body.prompt_logprobs),
            **extras,
        )

    results = await context.until_disconnect(all_results(answers))
    return await run_in_thread(completion, results, size=total_logprobs(results))


def _sampling(service: GenerationService, body: ChatCompletionRequest) -> SamplingParams:
    unlimited = unlimited_max_tokens(service, body.n or 1, body.num_logprobs)
    sampling = body.sampling_params(
        service, max_tokens=unlimited, unlimited=unlimited, defaults=service.defaults, logprobs=body.num_logprobs
    )
    return with_prompt_logprobs(sampling, body.prompt_logprobs, stream=bool(body.stream))


async def _prompt(context: Context, body: ChatCompletionRequest, request: ChatRequest) -> Prompt:
    prompt = await context.chat.prompt(request)
    if body.prompt_logprobs is not None:
        prompt = prompt.without_boundaries()  # scoring starts at the last boundary
    return truncated(prompt, body.truncate_prompt_tokens, context.service)


def _extras(body: ChatCompletionRequest, prompt: Prompt) -> dict[str, Any]:
    """Fields of the answer that are there only if there is something to say."""
    extras: dict[str, Any] = {"warnings": warnings} if (warnings := body.warnings) else {}
    return extras | ({"prompt_token_ids": list(prompt.token_ids)} if body.return_token_ids else {})


async def _events(
    chunks: ChunkFactory, answers: Sequence[ChatGeneration], body: ChatCompletionRequest, routing: RoutingParams
) -> Events:
    for index in range(chunks.n):
        yield chunks.of(_chunk_choice(index, {"role": "assistant", "content": ""}))
    async with aclosing(interleave(answers)) as deltas:
        async for index, delta in deltas:
            logprobs = limited(delta.logprobs, body.num_logprobs)
            extras = {"token_ids": delta.token_ids} if body.return_token_ids and delta.token_ids else {}
            extras |= piece_routing(delta, routing)
            for fields in _chunk_fields(delta, even_if_empty=bool(logprobs or extras)):
                yield chunks.of(_chunk_choice(index, fields, logprobs) | extras)
                logprobs, extras = (), {}
            if delta.finish_reason is not None:
                yield chunks.of(_chunk_choice(index, {}, finish_reason=delta.finish_reason))
    if chunks.with_usage:
        yield chunks.last()


def _chunk_fields(delta: ChatDelta, *, even_if_empty: bool) -> list[Event]:
    """The pieces of a delta, each for a chunk of its own: clients expect one kind of text in a chunk."""
    fields: list[Event] = []
    if delta.reasoning:
        fields.append({"reasoning_content": delta.reasoning, "reasoning": delta.reasoning})
    if delta.content or (even_if_empty and not delta.reasoning and not delta.tool_calls):
        fields.append({"content": delta.content})
    if delta.tool_calls:
        fields.append({"tool_calls": [streamed_tool_call(call) for call in delta.tool_calls]})
    return fields


def _chunk_choice(
    index: int, delta: Event, logprobs: Sequence[DecodedLogprobs] = (), finish_reason: str | None = None
) -> Event:
    shown = chat_logprobs(logprobs).model_dump() if logprobs else None
    return {"index": index, "delta": delta, "logprobs": shown, "finish_reason": finish_reason}


def _choice(index: int, result: ChatResult, body: ChatCompletionRequest, routing: RoutingParams) -> ChatChoice:
    return ChatChoice(
        index=index,
        message=AssistantMessage(
            content=None if result.tool_calls and not result.content else result.content,
            reasoning_content=result.reasoning or None,
            reasoning=result.reasoning or None,
            tool_calls=[answer_tool_call(call) for call in result.tool_calls] or None,
        ),
        logprobs=chat_logprobs(limited(result.logprobs, body.num_logprobs)) if body.logprobs else None,
        finish_reason=result.finish_reason,
        token_ids=list(result.token_ids) if body.return_token_ids else None,
        routing=answer_routing(result, routing),
    )
