"""POST /v1/completions: continue plain text or token ids, with echo and log-probabilities for evaluation harnesses."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from server.api.chunks import Chunks
from server.api.completion_logprobs import CompletionLogprobs, LogprobColumns
from server.api.dependencies import Admitted, RequestId, Service, admission
from server.api.disconnect import until_disconnect
from server.api.openai_fields import CompletionOnlyFields, OpenAIFields, StreamOptions
from server.api.prompts import PromptField, read_prompts
from server.api.request_model import ModelName
from server.api.sampling import MAX_CHOICES, MAX_LOGPROBS, MAX_TOKENS, SamplingFields
from server.api.sse import Events, EventStream
from server.api.usage import UsageInfo, usage_of
from server.engine.types import SamplingParams
from server.errors import InvalidRequestError
from server.generation.logprobs import TextLogprobs
from server.generation.prompt import Prompt
from server.generation.service import GenerationService
from server.generation.stream import GenerationResult, TextDelta, interleave

router = APIRouter(tags=["OpenAI"])

DEFAULT_MAX_TOKENS = 16  # OpenAI's default
MAX_GENERATIONS = 128  # prompts times choices
MAX_LOGPROBS_IN_ALL = 2**19  # of an answer: it is held in memory until it is whole, some 250 bytes each


class CompletionRequest(SamplingFields, OpenAIFields, CompletionOnlyFields):
    model: ModelName | None = None
    prompt: PromptField
    max_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS, description="0 needs echo.")] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def scores_prompt(self) -> bool:
        return bool(self.echo) and (self.logprobs is not None or self.max_tokens == 0)


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str


class Completion(BaseModel):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: UsageInfo


Continuation = Admitted[CompletionRequest]


async def admit(body: CompletionRequest, service: Service, request_id: RequestId) -> AsyncIterator[Continuation]:
    """Validate, encode, submit; abort what still runs when the request ends."""
    service.check_model(body.model)
    if body.max_tokens == 0 and not body.echo:
        raise InvalidRequestError(
            "max_tokens is 0: nothing would be answered. Set echo to score a prompt.", param="max_tokens"
        )
    prompts = await read_prompts(service, body.prompt)
    n = body.n or 1
    if len(prompts) * n > MAX_GENERATIONS:
        raise InvalidRequestError(
            f"{len(prompts)} prompts times n={n} is more than {MAX_GENERATIONS}; send several requests.", param="prompt"
        )
    sampling = body.sampling_params(
        service,
        max_tokens=DEFAULT_MAX_TOKENS,
        defaults=service.defaults,
        logprobs=body.logprobs,
        prompt_logprobs=body.scores_prompt,
    )
    _check_logprobs(service, prompts, n, sampling)
    with admission(service, request_id, prompts, sampling, body.stop_strings, n) as generations:
        yield Admitted(f"cmpl-{request_id}", body, generations, prompts)


def _check_logprobs(service: GenerationService, prompts: Sequence[Prompt], n: int, sampling: SamplingParams) -> None:
    """Each field is bounded; this bounds their product."""
    tokens = 0
    if sampling.logprobs is not None:
        tokens += len(prompts) * min(sampling.max_tokens, service.max_model_len)
    if sampling.prompt_logprobs:
        tokens += sum(len(prompt.token_ids) for prompt in prompts)
    asked = n * tokens * (1 + (sampling.logprobs or 0))
    if asked > MAX_LOGPROBS_IN_ALL:
        raise InvalidRequestError(
            f"This may be {asked:,} log-probabilities, and one answer has at most {MAX_LOGPROBS_IN_ALL:,}: send fewer "
            "prompts at once, or ask for fewer choices, tokens or alternatives.",
            param="logprobs",
        )


@router.post("/v1/completions", response_model=Completion, summary="Continue plain text")
async def completions(request: Request, service: Service, work: Annotated[Continuation, Depends(admit)]) -> Any:
    """OpenAI's completions. `prompt` is a text, a list of texts, token ids, or a list of lists of token ids."""
    created = int(time.time())
    if work.body.stream:
        return EventStream(_chunks(work, created, service))
    results = await until_disconnect(request, work.results())
    return Completion(
        id=work.id,
        created=created,
        model=service.model_id,
        choices=[_choice(index, result, work, service) for index, result in enumerate(results)],
        usage=usage_of(work.generations, work.body.n or 1),
    )


async def _chunks(work: Continuation, created: int, service: GenerationService) -> Events:
    n = work.body.n or 1
    chunks = Chunks(work.id, "text_completion", created, service.model_id, work.body.stream_options)
    columns = [LogprobColumns(service.tokenizer) for _ in work.generations]
    echoed = [not work.body.echo for _ in work.generations]

    async with aclosing(interleave(work.generations)) as deltas:
        async for index, delta in deltas:
            text, entries = delta.text, list(delta.logprobs)
            if not echoed[index]:
                echoed[index] = True
                text, entries = _echoed(service, columns[index], work.prompts[index // n], delta)
            wanted = entries and work.body.logprobs is not None
            logprobs = columns[index].columns(entries).model_dump() if wanted else None
            reason = delta.finish_reason
            yield chunks.of({"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason})
    if chunks.with_usage:
        yield chunks.last(work.generations, n)


def _choice(index: int, result: GenerationResult, work: Continuation, service: GenerationService) -> CompletionChoice:
    text, entries = result.text, list(result.logprobs)
    columns = LogprobColumns(service.tokenizer)
    if work.body.echo:
        text, entries = _echoed(service, columns, work.prompts[index // (work.body.n or 1)], result)
    return CompletionChoice(
        index=index,
        text=text,
        logprobs=columns.columns(entries) if work.body.logprobs is not None else None,
        finish_reason=result.finish_reason,
    )


def _echoed(
    service: GenerationService, columns: LogprobColumns, prompt: Prompt, first: TextDelta | GenerationResult
) -> tuple[str, list[TextLogprobs]]:
    """A prompt and what follows it first, or all that does."""
    entries = columns.prompt(prompt, first.prompt_logprobs)
    return service.prompt_text(prompt) + first.text, [*entries, *first.logprobs]
