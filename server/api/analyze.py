"""POST /v1/analyze: which of the given labels fits a text, with a score per label from the labels' likelihoods."""

import math
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import AfterValidator, BaseModel, Field
from pydantic_core import PydanticCustomError

from server.api.dependencies import Admitted, RequestId, Service
from server.api.disconnect import until_disconnect
from server.api.request_model import ModelName, NonBlankText, OneAsList, RequestModel
from server.api.usage import UsageInfo
from server.errors import InvalidRequestError
from server.tasks.label_scoring import AnswerScores, Question
from server.tasks.sub_generations import EarlierWork

router = APIRouter(prefix="/v1", tags=["Tasks"])

MAX_TEXTS = 16
MAX_SCORES = 128  # texts times labels: each is a request to the engine


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
    warnings: list[str] = []


Work = Admitted[AnalyzeRequest]


async def admit(request: Request, body: AnalyzeRequest, service: Service, request_id: RequestId) -> AsyncIterator[Work]:
    """Render the texts and have all labels weighed; abort what still runs when the client leaves."""
    service.check_model(body.model)
    if len(body.text) * len(body.labels) > MAX_SCORES:
        raise InvalidRequestError(
            f"{len(body.text)} texts times {len(body.labels)} labels is more than {MAX_SCORES}.", param="text"
        )
    prompts = [await service.chat_prompt(service.prompts.analyze(text, body.labels)) for text in body.text]
    earlier = EarlierWork(service, request_id)
    questions = [Question(prompt, body.labels) for prompt in prompts]
    scores = await until_disconnect(request, AnswerScores(earlier).of(questions))
    yield Admitted(f"analysis-{request_id}", body, [], extra=scores, earlier=earlier.done)


@router.post("/analyze", response_model=AnalyzeResponse, summary="Choose a label for a text")
async def analyze(service: Service, work: Annotated[Work, Depends(admit)]) -> Any:
    """Score each label by how likely the model is to answer with it, and nothing else: no free text is generated."""
    results = [_analysis(work.body.labels, [score.log_likelihood for score in row]) for row in work.extra]
    return AnalyzeResponse(
        id=work.id,
        model=service.model_id,
        results=results,
        usage=work.usage,
        warnings=service.quality.warnings("analyze"),
    )


def _analysis(labels: Sequence[str], log_likelihoods: Sequence[float]) -> Analysis:
    highest = max(log_likelihoods)
    weights = [math.exp(value - highest) for value in log_likelihoods]
    scores = {label: weight / sum(weights) for label, weight in zip(labels, weights, strict=True)}
    return Analysis(label=max(labels, key=lambda label: scores[label]), scores=scores)
