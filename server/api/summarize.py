"""POST /v1/summarize: a text in fewer words."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel

from model.language import detect_language
from server.api.dependencies import Admitted, RequestId, Service, admission
from server.api.disconnect import until_disconnect
from server.api.request_model import NonBlankText
from server.api.shortening import Shortening
from server.api.tasks import GREEDY, TaskFields, task_events
from server.api.translate import Language
from server.api.usage import UsageInfo
from server.sse import EventStream

router = APIRouter(prefix="/v1", tags=["Tasks"])

DEFAULT_MAX_TOKENS = {"short": 32, "medium": 80, "long": 256}
FREQUENCY_PENALTY = 0.5  # a small model that takes the likeliest word each time can fall into repeating it


class SummarizeRequest(TaskFields):
    text: NonBlankText
    language: Language | Literal["auto"] = "auto"
    length: Literal["short", "medium", "long"] = "medium"


class SummarizeResponse(BaseModel):
    """`language` is the one asked for, or the text's own."""

    id: str
    object: Literal["summary"] = "summary"
    model: str
    summary: str
    language: str
    length: str
    finish_reason: str
    usage: UsageInfo


Work = Admitted[SummarizeRequest]


async def admit(
    request: Request, body: SummarizeRequest, service: Service, request_id: RequestId
) -> AsyncIterator[Work]:
    """Find the language, shorten what is too long, render, submit; abort what still runs when the request ends."""
    service.check_model(body.model)
    sampling = body.sampling_params(
        service,
        max_tokens=DEFAULT_MAX_TOKENS[body.length],
        defaults=GREEDY,
        frequency_penalty=FREQUENCY_PENALTY,
    )
    language = detect_language(body.text) if body.language == "auto" else body.language
    shortened = Shortening(service, request_id, language, sampling)
    text = await until_disconnect(request, shortened.of(body.text))
    prompt = await service.chat_prompt(service.prompts.summarize(text, language, body.length))
    with admission(service, request_id, [prompt], sampling, body.stop_strings) as generations:
        extra = {"language": language, "length": body.length}
        yield Admitted(f"sum-{request_id}", body, generations, extra=extra, earlier=shortened.done)


@router.post("/summarize", response_model=SummarizeResponse, summary="Summarize text")
async def summarize(request: Request, service: Service, work: Annotated[Work, Depends(admit)]) -> Any:
    """Say it shorter, in the language of the text.

    Of a document longer than the model can read at once, pieces are summarized first, then their summaries.

    With `stream`: events `{"object": "summary.chunk", "id", "index": 0, "delta"}`, then one `{"object":
    "summary.done", "id", "model", "language", "length", "finish_reason", "usage"}`, then `[DONE]`.
    """
    if work.body.stream:
        return EventStream(task_events("summary", work, service.model_id, lambda _: work.extra))
    [result] = await until_disconnect(request, work.results())
    return SummarizeResponse(
        id=work.id,
        model=service.model_id,
        summary=result.text,
        finish_reason=result.finish_reason,
        usage=work.usage,
        **work.extra,
    )
