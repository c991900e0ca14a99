"""POST /v1/analyze: which of the given labels fits a text, with a score per label from the labels' likelihoods."""

import math
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import AfterValidator, BaseModel, Field
from pydantic_core import PydanticCustomError

from server.api.dependencies import Admitted, RequestId, Service, admission
from server.api.disconnect import until_disconnect
from server.api.request_model import ModelName, NonBlankText, OneAsList, RequestModel
from server.api.usage import UsageInfo, usage_of
from server.engine.types import SamplingParams
from server.errors import InvalidRequestError
from server.generation import GenerationResult
from server.prompt import Prompt
from server.service import GenerationService

router = APIRouter(prefix="/v1", tags=["Tasks"])

MAX_TEXTS = 16
MAX_SCORES = 128  # texts times labels: each is a request to the engine

SCORING = SamplingParams(max_tokens=0, prompt_logprobs=True)


def _distinct(labels: list[str]) -> list[str]:
    labels = [label.strip() for label in labels]
    if len(set(labels)) < len(labels):
        raise PydanticCustomError("same_labels", "two labels are the same")
    return labels


Label = Annotated[NonBlankText, Field(max_length=128)]


class AnalyzeRequest(RequestModel):
    model: ModelName | None = None
    text: Annotated[list[NonBlankText], Field(min_length=1, max_length=MAX_TEXTS), OneAsList]
    labels: Annotated[list[Label], Field(min_length=2, max_length=32), AfterValidator(_distinct)]


class Analysis(BaseModel):
    """The likeliest label, and for each label its probability among the given ones: they sum to 1."""

    label: str
    scores: dict[str, float]


class AnalyzeResponse(BaseModel):
    id: str
    object: Literal["analysis"] = "analysis"
    model: str
    results: list[Analysis]
    usage: UsageInfo


Work = Admitted[AnalyzeRequest]


async def admit(body: AnalyzeRequest, service: Service, request_id: RequestId) -> AsyncIterator[Work]:
    """Render the texts and submit the first label of each; the others follow when the shared prompt is computed."""
    service.check_model(body.model)
    if len(body.text) * len(body.labels) > MAX_SCORES:
        raise InvalidRequestError(
            f"{len(body.text)} texts times {len(body.labels)} labels is more than {MAX_SCORES}.", param="text"
        )
    prompts = [await service.chat_prompt(service.prompts.analyze(text, body.labels)) for text in body.text]
    first = [_with_label(service, prompt, body.labels[0]) for prompt in prompts]
    with admission(service, f"{request_id}-first", first, SCORING) as generations:
        yield Admitted(f"analysis-{request_id}", body, generations, prompts)


@router.post("/analyze", response_model=AnalyzeResponse, summary="Choose a label for a text")
async def analyze(request: Request, service: Service, work: Annotated[Work, Depends(admit)]) -> Any:
    """Score each label by how likely the model is to answer with it, and nothing else: no free text is generated."""
    labels = work.body.labels
    first = await until_disconnect(request, work.results())
    others = [_with_label(service, prompt, label) for prompt in work.prompts for label in labels[1:]]
    with admission(service, f"{work.id}-other", others, SCORING) as generations:
        rest = await until_disconnect(request, Admitted(work.id, work.body, generations, others).results())
    scores = [
        [_log_likelihood(result, len(prompt.token_ids)) for result in (first[text], *_row(rest, text, len(labels) - 1))]
        for text, prompt in enumerate(work.prompts)
    ]
    return AnalyzeResponse(
        id=work.id,
        model=service.model_id,
        results=[_analysis(labels, row) for row in scores],
        usage=usage_of([*work.generations, *generations]),
    )


def _with_label(service: GenerationService, prompt: Prompt, label: str) -> Prompt:
    """The prompt with a label as its answer. Scoring starts at the last boundary: there the labels begin to differ."""
    answer = (*service.tokenizer.encode(label), *service.tokenizer.eos_token_ids[:1])
    shared = len(prompt.token_ids)
    boundaries = [boundary for boundary in prompt.boundaries if boundary < shared]
    return Prompt((*prompt.token_ids, *answer), (*boundaries, shared))


def _row(results: Sequence[GenerationResult], text: int, width: int) -> Sequence[GenerationResult]:
    return results[text * width : (text + 1) * width]


def _log_likelihood(result: GenerationResult, prompt_length: int) -> float:
    """Sum of the log-probabilities of the label's tokens and of the end of the answer."""
    answer_length = result.usage.prompt_tokens - prompt_length
    entries = result.prompt_logprobs[-answer_length:]
    return math.fsum(entry.chosen.logprob or 0.0 for entry in entries)


def _analysis(labels: Sequence[str], log_likelihoods: Sequence[float]) -> Analysis:
    highest = max(log_likelihoods)
    weights = [math.exp(value - highest) for value in log_likelihoods]
    scores = {label: weight / sum(weights) for label, weight in zip(labels, weights, strict=True)}
    return Analysis(label=max(labels, key=lambda label: scores[label]), scores=scores)
