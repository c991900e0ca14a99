"""POST /v1/analyze: which of the given labels fits a text, with a score per label from the labels' likelihoods."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import AfterValidator, BaseModel, Field
from pydantic_core import PydanticCustomError

from server.api.dependencies import Context
from server.api.request_model import FirstErrorOnly, ModelName, NonBlankText, OneAsList, RequestBody
from server.api.response_model import UsageInfo, usage_of
from server.tasks.analyze import classify

router = APIRouter(prefix="/v1", tags=["Tasks"])

MAX_TEXTS = 16


def _distinct(labels: list[str]) -> list[str]:
    labels = [label.strip() for label in labels]
    if len(set(labels)) < len(labels):
        raise PydanticCustomError("same_labels", "two labels are the same")
    return labels


Label = Annotated[NonBlankText, Field(max_length=128)]


class AnalyzeRequest(RequestBody):
    model: ModelName | None = None
    text: Annotated[list[NonBlankText], FirstErrorOnly, Field(min_length=1, max_length=MAX_TEXTS), OneAsList]
    labels: Annotated[list[Label], FirstErrorOnly, Field(min_length=2, max_length=32), AfterValidator(_distinct)]


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


@router.post("/analyze", response_model=AnalyzeResponse, summary="Choose a label for a text")
async def analyze(body: AnalyzeRequest, context: Context) -> Any:
    """Score each label by how likely the model is to answer with it, and nothing else: no free text is generated."""
    service = context.accept(body)
    classifications = await context.until_disconnect(classify(context.admission, body.text, body.labels))
    return AnalyzeResponse(
        id=f"analysis-{context.admission.request_id}",
        model=service.model_id,
        results=[Analysis(label=found.label, scores=found.scores) for found in classifications],
        usage=usage_of(context.admission.generations),
        warnings=[*service.quality.warnings("analyze"), *body.warnings],
    )
