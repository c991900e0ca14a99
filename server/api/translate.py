"""POST /v1/translate: one text or a list of texts into another language."""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from model.language import detect_language
from server.api.dependencies import Admitted, RequestId, Service, admission
from server.api.disconnect import until_disconnect
from server.api.request_model import NonBlankText, OneAsList
from server.api.tasks import TEMPERATURE, TaskFields, task_events
from server.api.usage import UsageInfo, usage_of
from server.engine.types import FinishReason
from server.errors import InvalidRequestError
from server.sse import Event, EventStream

router = APIRouter(prefix="/v1", tags=["Tasks"])

MAX_TEXTS = 32
DEFAULT_MAX_TOKENS = 512

Language = Literal["en", "zh", "de", "fr"]


class TranslateRequest(TaskFields):
    text: Annotated[list[NonBlankText], Field(min_length=1, max_length=MAX_TEXTS), OneAsList]
    source_lang: Language | Literal["auto"] = "auto"
    target_lang: Language


class Translation(BaseModel):
    """`detected`: the source language was found out, not given."""

    text: str
    source_lang: str
    detected: bool
    finish_reason: str


class TranslateResponse(BaseModel):
    id: str
    object: Literal["translation"] = "translation"
    model: str
    translations: list[Translation]
    usage: UsageInfo


Work = Admitted[TranslateRequest]


async def admit(body: TranslateRequest, service: Service, request_id: RequestId) -> AsyncIterator[Work]:
    """Find the languages, render, submit; abort what still runs when the request ends."""
    service.check_model(body.model)
    sampling = body.sampling_params(service, max_tokens=DEFAULT_MAX_TOKENS, temperature=TEMPERATURE)
    sources = [_source_language(body, index) for index in range(len(body.text))]
    prompts = [
        await service.chat_prompt(service.prompts.translate(text, source, body.target_lang))
        for text, source in zip(body.text, sources, strict=True)
    ]
    with admission(service, request_id, prompts, sampling, body.stop_strings) as generations:
        yield Admitted(f"trans-{request_id}", body, generations, prompts, sources)


@router.post("/translate", response_model=TranslateResponse, summary="Translate text")
async def translate(request: Request, service: Service, work: Annotated[Work, Depends(admit)]) -> Any:
    """Translate between English, Chinese, German and French.

    With `stream`: events `{"object": "translation.chunk", "id", "index", "delta"}`, where `index` counts the texts,
    then one `{"object": "translation.done", "id", "model", "translations": [{"source_lang", "detected",
    "finish_reason"}], "finish_reason", "usage"}`, then `[DONE]`.
    """
    if work.body.stream:
        return EventStream(task_events("translation", work, service.model_id, lambda reasons: _details(work, reasons)))
    results = await until_disconnect(request, work.results())
    details = _details(work, [result.finish_reason for result in results])["translations"]
    return TranslateResponse(
        id=work.id,
        model=service.model_id,
        translations=[Translation(text=result.text, **detail) for result, detail in zip(results, details, strict=True)],
        usage=usage_of(work.generations),
    )


def _source_language(body: TranslateRequest, index: int) -> str:
    source = detect_language(body.text[index]) if body.source_lang == "auto" else body.source_lang
    if source == body.target_lang:
        found = "was found to be" if body.source_lang == "auto" else "is said to be"
        raise InvalidRequestError(
            f"Text {index} {found} in '{source}' already, the target language; set source_lang to the right one.",
            param="source_lang",
        )
    return source


def _details(work: Work, reasons: Sequence[FinishReason]) -> Event:
    detected = work.body.source_lang == "auto"
    return {
        "translations": [
            {"source_lang": source, "detected": detected, "finish_reason": reason}
            for source, reason in zip(work.extra, reasons, strict=True)
        ]
    }
