"""POST /v1/summarize: a text in fewer words."""

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from server.api.dependencies import Context, RequestContext
from server.api.request_model import AUTO, LanguageOrAuto, NonBlankText
from server.api.response_model import UsageInfo, usage_of
from server.api.routing_fields import ExpertsFields
from server.api.sse import Events
from server.api.tasks import GREEDY, TaskFields, task_events
from server.generation.service import GenerationService
from server.tasks.summarize import RunningSummary, SummarizeParams, start_summary

router = APIRouter(prefix="/v1", tags=["Tasks"])

DEFAULT_MAX_TOKENS = {"short": 32, "medium": 80, "long": 256}
DEFAULTS = replace(GREEDY, frequency_penalty=0.5)  # a small model that decodes greedily can get stuck in a loop


class SummarizeRequest(TaskFields, ExpertsFields):
    text: NonBlankText
    language: LanguageOrAuto = AUTO
    length: Literal["short", "medium", "long"] = "medium"
    method: Literal["auto", "generate", "extract"] = Field(
        "auto",
        description="generate: in the model's own words. extract: the sentences of the text that the model finds "
        "likeliest as its summary; nothing is sampled, so max_tokens, stop and the like have no effect. auto: the one "
        "that the model was measured to be better at.",
    )

    def params(self, service: GenerationService) -> SummarizeParams:
        return SummarizeParams(
            self.text,
            self.sampling_params(service, max_tokens=DEFAULT_MAX_TOKENS[self.length], defaults=DEFAULTS),
            language=None if self.language == AUTO else self.language,
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
    """Summarize a text in its own language.

    A model whose own summaries are worse than the text's best sentences, such as the bundled one, chooses sentences
    (`method`), except for a long summary of a text of at most two sentences.

    A document that is longer than the model can read at once is read in chunks.

    With `stream`: events `{"object": "summary.chunk", "id", "index": 0, "delta"}`, then one `{"object":
    "summary.done", "id", "model", "language", "length", "method", "warnings", "finish_reason", "usage"}`, then
    `[DONE]`.
    """
    service, answer_id = context.accept(body), f"sum-{context.admission.request_id}"
    starting = await context.until_begun(start_summary(context.admission, body.params(service)))
    if body.stream:
        return context.stream(_events(answer_id, context, body, starting))
    summary = await context.until_disconnect(_result_of(starting))
    result = await context.until_disconnect(summary.generation.result())
    return SummarizeResponse(
        id=answer_id,
        model=context.admission.model_name,
        summary=result.text,
        finish_reason=result.finish_reason,
        usage=usage_of(context.admission.generations),
        **_details(service, body, summary),
    )


async def _events(
    answer_id: str, context: RequestContext, body: SummarizeRequest, starting: asyncio.Task[RunningSummary]
) -> Events:
    summary = await starting
    details = _details(context.admission.service, body, summary)
    events = task_events("summary", answer_id, context, [summary.generation], lambda _: details)
    async with aclosing(events):
        async for event in events:
            yield event


async def _result_of(task: asyncio.Task[RunningSummary]) -> RunningSummary:
    return await task


def _details(service: GenerationService, body: SummarizeRequest, summary: RunningSummary) -> dict[str, Any]:
    return {
        "language": summary.language,
        "length": body.length,
        "method": summary.method,
        "warnings": [*service.quality.warnings("summarize"), *body.warnings],
    }
