"""POST /v1/completions: continue plain text or token ids, with echo and log-probabilities for evaluation harnesses."""

import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from server.api.chunks import ChunkFactory
from server.api.completion_logprobs import CompletionLogprobs, LogprobColumns
from server.api.dependencies import RequestAdmission
from server.api.disconnect import until_disconnect
from server.api.openai_fields import CompletionOnlyFields, OpenAIFields, StreamOptions
from server.api.prompts import PromptField, read_prompts
from server.api.request_model import ModelName
from server.api.sampling import MAX_CHOICES, MAX_LOGPROBS, MAX_TOKENS, SamplingFields, check_total_logprobs
from server.api.sse import Event, Events, EventStream
from server.api.usage import UsageInfo, usage_of
from server.errors import InvalidRequestError
from server.generation.prompt import Prompt
from server.generation.service import GenerationService
from server.generation.stream import GenerationResult, RunningGeneration, TextDelta, all_results, interleave

router = APIRouter(tags=["OpenAI"])

DEFAULT_MAX_TOKENS = 16  # OpenAI's default
MAX_GENERATIONS = 128  # prompts times choices


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
    def num_choices(self) -> int:
        return self.n or 1

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


@router.post("/v1/completions", response_model=Completion, summary="Continue plain text")
async def completions(request: Request, body: CompletionRequest, admission: RequestAdmission) -> Any:
    """OpenAI's completions. `prompt` is a text, a list of texts, token ids, or a list of lists of token ids."""
    service, answer_id, created = admission.service, f"cmpl-{admission.request_id}", int(time.time())
    service.check_model(body.model)
    if body.max_tokens == 0 and not body.echo:
        raise InvalidRequestError(
            "max_tokens is 0: nothing would be answered. Set echo to score a prompt.", param="max_tokens"
        )
    prompts = await read_prompts(service, body.prompt)
    _check_count(prompts, body)
    sampling = body.sampling_params(
        service,
        max_tokens=DEFAULT_MAX_TOKENS,
        defaults=service.defaults,
        logprobs=body.logprobs,
        prompt_logprobs=body.scores_prompt,
    )
    check_total_logprobs(service, prompts, body.num_choices, sampling)
    generations = admission.start(prompts, sampling, body.stop_strings, body.num_choices)
    choices = [
        ChoiceBuilder(service, body, index, prompt)
        for index, prompt in enumerate(prompt for prompt in prompts for _ in range(body.num_choices))
    ]
    if body.stream:
        chunks = ChunkFactory(answer_id, "text_completion", created, service.model_id, body.stream_options)
        return EventStream(_events(chunks, choices, generations, body.num_choices))
    results = await until_disconnect(request, all_results(generations))
    return Completion(
        id=answer_id,
        created=created,
        model=service.model_id,
        choices=[CompletionChoice(**choice.next(result)) for choice, result in zip(choices, results, strict=True)],
        usage=usage_of(generations, body.num_choices),
    )


def _check_count(prompts: Sequence[Prompt], body: CompletionRequest) -> None:
    if len(prompts) * body.num_choices > MAX_GENERATIONS:
        raise InvalidRequestError(
            f"{len(prompts)} prompts times n={body.num_choices} is more than {MAX_GENERATIONS}; send several requests.",
            param="prompt",
        )


class ChoiceBuilder:
    """Makes the choice of one generation from its pieces. With `echo`, the prompt comes before the first piece."""

    def __init__(self, service: GenerationService, body: CompletionRequest, index: int, prompt: Prompt) -> None:
        self._service, self._body, self._index, self._prompt = service, body, index, prompt
        self._columns = LogprobColumns(service.tokenizer)
        self._echo_pending = bool(body.echo)

    def next(self, piece: TextDelta | GenerationResult) -> Event:
        """The next piece, which may be all of it. A delta without tokens has no log-probabilities."""
        text, entries = piece.text, list(piece.logprobs)
        if self._echo_pending:
            self._echo_pending = False
            text = self._service.prompt_text(self._prompt) + text
            entries = [*self._columns.prompt(self._prompt, piece.prompt_logprobs), *entries]
        wanted = self._body.logprobs is not None and (entries or isinstance(piece, GenerationResult))
        logprobs = self._columns.columns(entries) if wanted else None
        return {"index": self._index, "text": text, "logprobs": logprobs, "finish_reason": piece.finish_reason}


async def _events(
    chunks: ChunkFactory, choices: Sequence[ChoiceBuilder], generations: Sequence[RunningGeneration], n: int
) -> Events:
    async with aclosing(interleave(generations)) as deltas:
        async for index, delta in deltas:
            yield chunks.of(choices[index].next(delta))
    if chunks.with_usage:
        yield chunks.last(generations, n)
