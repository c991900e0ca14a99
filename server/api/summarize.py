"""POST /v1/summarize: a text in fewer words."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from model.text.language_detection import detect_language
from server.api.dependencies import Admitted, RequestId, Service, admission
from server.api.disconnect import until_disconnect
from server.api.request_model import Language, NonBlankText
from server.api.sse import EventStream
from server.api.tasks import GREEDY, TaskFields, task_events
from server.api.usage import UsageInfo
from server.generation.run_in_thread import off_loop
from server.generation.service import GenerationService
from server.generation.stream import FinishedGeneration
from server.tasks.extractive_summary import SENTENCES, Extraction, sentences_in
from server.tasks.long_documents import Shortening
from server.tasks.sub_generations import EarlierWork

router = APIRouter(prefix="/v1", tags=["Tasks"])

DEFAULT_MAX_TOKENS = {"short": 32, "medium": 80, "long": 256}
FREQUENCY_PENALTY = 0.5  # a small model that takes the likeliest word each time can fall into repeating it


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


Work = Admitted[SummarizeRequest]


async def admit(
    request: Request, body: SummarizeRequest, service: Service, request_id: RequestId
) -> AsyncIterator[Work]:
    """Find language and method; choose sentences, or submit a prompt and abort what still runs in the end."""
    service.check_model(body.model)
    language = detect_language(body.text) if body.language == "auto" else body.language
    method = await _method(service, body) if body.method == "auto" else body.method
    warnings = service.quality.warnings("summarize")
    details = {"language": language, "length": body.length, "method": method, "warnings": warnings}
    sampling = body.sampling_params(
        service,
        max_tokens=DEFAULT_MAX_TOKENS[body.length],
        defaults=GREEDY,
        frequency_penalty=FREQUENCY_PENALTY,
    )
    work_id, earlier = f"sum-{request_id}", EarlierWork(service, request_id)
    if method == "extract":
        extracted = await until_disconnect(request, Extraction(earlier, language, body.length).of(body.text))
        yield Admitted(work_id, body, [FinishedGeneration(extracted)], extra=details, earlier=earlier.done)
        return
    text = await until_disconnect(request, Shortening(earlier, language, sampling).of(body.text))
    prompt = await service.chat_prompt(service.prompts.summarize(text, language, body.length))
    await until_disconnect(request, earlier.room())
    with admission(service, request_id, [prompt], sampling, body.stop_strings) as generations:
        yield Admitted(work_id, body, generations, extra=details, earlier=earlier.done)


@router.post("/summarize", response_model=SummarizeResponse, summary="Summarize text")
async def summarize(request: Request, service: Service, work: Annotated[Work, Depends(admit)]) -> Any:
    """Say it shorter, in the language of the text.

    A model whose own summaries are worse than the text's best sentences, as the bundled one's are, chooses sentences
    (`method`), unless a long summary of no more than two sentences is wanted: those it joins.

    A document longer than the model can read at once is read in pieces.

    With `stream`: events `{"object": "summary.chunk", "id", "index": 0, "delta"}`, then one `{"object":
    "summary.done", "id", "model", "language", "length", "method", "warnings", "finish_reason", "usage"}`, then
    `[DONE]`.
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


async def _method(service: GenerationService, body: SummarizeRequest) -> str:
    joins = body.length == "long" and await off_loop(sentences_in, body.text) <= SENTENCES["long"]
    return "extract" if service.prompts.summaries_from_sentences and not joins else "generate"
