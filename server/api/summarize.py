"""POST /v1/summarize: a text in fewer words."""

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from server.api.dependencies import Context
from server.api.request_model import Language, NonBlankText
from server.api.response_model import UsageInfo, usage_of
from server.api.tasks import GREEDY, TaskFields, task_events
from server.generation.service import GenerationService
from server.tasks.summarize import SummarizeParams, start_summary

router = APIRouter(prefix="/v1", tags=["Tasks"])

DEFAULT_MAX_TOKENS = {"short": 32, "medium": 80, "long": 256}
FREQUENCY_PENALTY = 0.5  # a small model that decodes greedily can fall into repeating itself


class SummarizeRequest(TaskFields):
    text: NonBlankText
    language: Language | Literal["auto"] = "auto"
    length: Literal["short", "medium", "long"] = "medium"
    method: Literal["auto", "generate", "extract"] = Field(
        "auto",
        description="generate: in the model's own words. extract: the sentences of the text that the model takes for "
        "its summary most likely; nothing is sampled then, and max_tokens, stop and the like do not matter. auto: what "
        "the model was measured to be better at.",
    )

    def params(self, service: GenerationService) -> SummarizeParams:
        return SummarizeParams(
            self.text,
            self.sampling_params(
                service,
                max_tokens=DEFAULT_MAX_TOKENS[self.length],
                defaults=GREEDY,
                frequency_penalty=FREQUENCY_PENALTY,
            ),
            language=None if self.language == "auto" else self.language,
            length=self.length,
            method=None if self.method == "auto" else self.method,
            options=self.text_options,
        )


class SummarizeResponse(BaseModel):
    """`language` is the one asked for, or the text's own; `warnings` say if the model is not good at this."""

    id: str
    object: Literal["summary"] = "summary"
    model: str
    summary: str
    language: str
    length: str
    method: str
    finish_reason: str
    usage: UsageInfo
    warnings: list[str] = []


@router.post("/summarize", response_model=SummarizeResponse, summary="Summarize text")
async def summarize(body: SummarizeRequest, context: Context) -> Any:
    """Say it shorter, in the language of the text.

    A model whose own summaries are worse than the text's best sentences, as the bundled one's are, chooses sentences
    (`method`), unless a long summary of no more than two sentences is wanted: those it joins.

    A document longer than the model can read at once is read in pieces.

    With `stream`: events `{"object": "summary.chunk", "id", "index": 0, "delta"}`, then one `{"object":
    "summary.done", "id", "model", "language", "length", "method", "warnings", "finish_reason", "usage"}`, then
    `[DONE]`.
    """
    service, answer_id = context.accept(body), f"sum-{context.admission.request_id}"
    summary = await context.until_disconnect(start_summary(context.admission, body.params(service)))
    details: dict[str, Any] = {
        "language": summary.language,
        "length": body.length,
        "method": summary.method,
        "warnings": [*service.quality.warnings("summarize"), *body.warnings],
    }
    if body.stream:
        return context.stream(task_events("summary", answer_id, context, [summary.generation], lambda _: details))
    result = await context.until_disconnect(summary.generation.result())
    return SummarizeResponse(
        id=answer_id,
        model=service.model_id,
        summary=result.text,
        finish_reason=result.finish_reason,
        usage=usage_of(context.admission.generations),
        **details,
    )
