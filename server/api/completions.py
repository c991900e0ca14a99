"""POST /v1/completions: continue plain text or token ids, with echo and log-probabilities for evaluation harnesses."""

import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import cached_property, partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from server.api.chunks import ChunkFactory, ChunkHead, StreamOptions
from server.api.dependencies import Context
from server.api.logprobs import (
    CompletionLogprobs,
    LogprobColumns,
    PromptLogprobs,
    joined,
    prompt_logprobs,
    total_logprobs,
    with_prompt_logprobs,
)
from server.api.prompts import PromptField, PromptFields, read_prompts
from server.api.request_model import ModelName
from server.api.response_format import GrammarFields
from server.api.response_model import Omittable, UsageInfo, Warnings, usage_of
from server.api.routing_fields import AnswerRouting, RoutingFields, answer_routing, piece_routing
from server.api.sampling import Choices, LogprobsField, NumLogprobs, SamplingFields, TokenLimit, check_total_logprobs
from server.api.scheduling import SchedulingFields
from server.api.sse import Event, Events
from server.engine.types import RoutingParams, SamplingParams
from server.errors import InvalidRequestError
from server.generation.logprobs import limited
from server.generation.prompt import Prompt
from server.generation.run_in_thread import run_in_thread
from server.generation.service import GenerationService
from server.generation.stream import GenerationResult, RunningGeneration, TextDelta, all_results, interleave

router = APIRouter(tags=["OpenAI"])

DEFAULT_MAX_TOKENS = 16  # OpenAI's default
MAX_GENERATIONS = 128  # prompts times choices


class CompletionRequest(SamplingFields, SchedulingFields, PromptFields, GrammarFields, RoutingFields):
    model: ModelName | None = None
    prompt: PromptField
    max_tokens: Annotated[TokenLimit, Field(description="0 needs echo; -1: as many as the context holds.")] | None = (
        None
    )
    n: Choices | None = None
    echo: bool | None = None
    logprobs: Annotated[LogprobsField, Field(description="How many alternatives; true stands for 1.")] | None = None
    prompt_logprobs: Annotated[NumLogprobs, Field(description="Not in streams.")] | None = None
    return_token_ids: bool = False
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def ignored_fields(self) -> tuple[str, ...]:
        options = self.stream_options.ignored_fields("stream_options") if self.stream_options else ()
        return (*super().ignored_fields, *options)

    @property
    def num_choices(self) -> int:
        return self.n or 1

    @property
    def num_logprobs(self) -> int | None:
        """How many alternatives per token; None: no log-probabilities."""
        return None if self.logprobs is None or self.logprobs is False else int(self.logprobs)

    @property
    def scores_prompt(self) -> bool:
        return bool(self.echo) and (self.num_logprobs is not None or self.max_tokens == 0)


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str
    prompt_logprobs: Omittable[PromptLogprobs] = None
    token_ids: Omittable[list[int]] = None
    prompt_token_ids: Omittable[list[int]] = None
    routing: Omittable[AnswerRouting] = None


class Completion(BaseModel):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: UsageInfo
    warnings: Warnings = []


@router.post("/v1/completions", response_model=Completion, summary="Continue plain text")
async def completions(body: CompletionRequest, context: Context) -> Any:
    """OpenAI's completions. `prompt` is a text, a list of texts, token ids, or a list of lists of token ids."""
    service, n = context.accept(body), body.num_choices
    _check_length(body)
    prompts = await read_prompts(service, body.prompt, body)
    _check_count(prompts, n)
    sampling = _sampling(service, body)
    if (grammar := await body.compile_grammar(service)) is not None:
        sampling = replace(sampling, grammar=grammar)
    check_total_logprobs(service, prompts, n, sampling)
    generations = context.admission.start(prompts, sampling, body.text_options, n)
    routing = context.admission.routing
    choices = [ChoiceBuilder(service, body, index, prompts[index // n], routing) for index in range(len(generations))]
    head = ChunkHead(
        f"cmpl-{context.admission.request_id}", "text_completion", int(time.time()), body.model or service.model_id
    )
    if body.stream:
        extras = {"warnings": warnings} if (warnings := body.warnings) else {}
        chunks = ChunkFactory(head, body.stream_options, generations, n, extras)
        return context.stream(_events(chunks, generations, choices))
    results = await context.until_disconnect(all_results(generations))
    whole = await run_in_thread(partial(_whole, choices), results, size=total_logprobs(results))
    return Completion(
        id=head.id,
        created=head.created,
        model=head.model,
        choices=whole,
        usage=usage_of(generations, n),
        warnings=body.warnings,
    )


def _whole(choices: Sequence["ChoiceBuilder"], results: Sequence[GenerationResult]) -> list[CompletionChoice]:
    return [choice.whole(result) for choice, result in zip(choices, results, strict=True)]


def _sampling(service: GenerationService, body: CompletionRequest) -> SamplingParams:
    sampling = body.sampling_params(
        service,
        max_tokens=DEFAULT_MAX_TOKENS,
        defaults=service.plain_text_defaults,
        logprobs=body.num_logprobs,
        prompt_logprobs=body.scores_prompt,
    )
    return with_prompt_logprobs(sampling, body.prompt_logprobs, stream=bool(body.stream))


def _check_length(body: CompletionRequest) -> None:
    if body.max_tokens == 0 and not body.echo and body.prompt_logprobs is None:
        raise InvalidRequestError(
            "max_tokens is 0: nothing would be answered. Set echo to score a prompt.", param="max_tokens"
        )


def _check_count(prompts: Sequence[Prompt], n: int) -> None:
    if len(prompts) * n > MAX_GENERATIONS:
        raise InvalidRequestError(
            f"{len(prompts)} prompts times n={n} is more than {MAX_GENERATIONS}; send several requests.", param="prompt"
        )


class ChoiceBuilder:
    """Makes the choice of one generation from its pieces. With `echo`, the prompt comes before the first piece."""

    def __init__(
        self, service: GenerationService, body: CompletionRequest, index: int, prompt: Prompt, routing: RoutingParams
    ) -> None:
        self._service, self._body, self._index, self._prompt = service, body, index, prompt
        self._routing = routing
        self._is_first = True

    @cached_property
    def _columns(self) -> LogprobColumns:
        return LogprobColumns(self._service.tokenizer, self._prompt, self._body.skip_special_tokens)

    def whole(self, result: GenerationResult) -> CompletionChoice:
        scored = prompt_logprobs(self._prompt, result, self._body.prompt_logprobs)
        routing = answer_routing(result, self._routing)
        return CompletionChoice(**self._next(result), prompt_logprobs=scored, routing=routing)

    def piece(self, delta: TextDelta) -> Event:
        """A delta without tokens has no log-probabilities."""
        event = self._next(delta) | piece_routing(delta, self._routing)
        return event if event["logprobs"] is None or event["logprobs"].tokens else event | {"logprobs": None}

    def _next(self, piece: TextDelta | GenerationResult) -> Event:
        first, self._is_first = self._is_first, False
        logprobs = self._logprobs(piece, first) if self._body.num_logprobs is not None else None
        text = self._service.prompt_text(self._prompt) + piece.text if first and self._body.echo else piece.text
        event = {"index": self._index, "text": text, "logprobs": logprobs, "finish_reason": piece.finish_reason}
        return event | self._token_ids(piece, first) if self._body.return_token_ids else event

    def _logprobs(self, piece: TextDelta | GenerationResult, first: bool) -> CompletionLogprobs:
        top = self._body.num_logprobs
        answer = limited(piece.logprobs, top)
        if not (first and self._body.echo):
            return self._columns.of_answer(answer)
        return joined(self._columns.of_prompt(limited(piece.prompt_logprobs, top)), self._columns.of_answer(answer))

    def _token_ids(self, piece: TextDelta | GenerationResult, first: bool) -> Event:
        event: Event = {"token_ids": list(piece.token_ids)}
        return event | ({"prompt_token_ids": list(self._prompt.token_ids)} if first else {})


async def _events(
    chunks: ChunkFactory, generations: Sequence[RunningGeneration], choices: Sequence[ChoiceBuilder]
) -> Events:
    async with aclosing(interleave(generations)) as deltas:
        async for index, delta in deltas:
            yield chunks.of(choices[index].piece(delta))
    if chunks.with_usage:
        yield chunks.last()
