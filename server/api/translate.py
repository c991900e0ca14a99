"""POST /v1/translate: one text or a list of texts into another language."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from server.api.dependencies import Context
from server.api.request_model import AUTO, FirstErrorOnly, Language, LanguageOrAuto, NonBlankText, OneAsList
from server.api.response_model import Omittable, UsageInfo, usage_of
from server.api.routing_fields import AnswerRouting, RoutingFields, answer_routing
from server.api.sse import Event
from server.api.tasks import GREEDY, TaskFields, task_events
from server.engine.types import FinishReason
from server.engine.validation import MAX_BEAM_WIDTH
from server.generation.service import GenerationService
from server.generation.stream import all_results
from server.tasks.translate import TranslateParams, start_translation

router = APIRouter(prefix="/v1", tags=["Tasks"])

MAX_TEXTS = 32
DEFAULT_MAX_TOKENS = 512


class TranslateRequest(TaskFields, RoutingFields):
    text: Annotated[list[NonBlankText], FirstErrorOnly, Field(min_length=1, max_length=MAX_TEXTS), OneAsList]
    source_lang: LanguageOrAuto = AUTO
    target_lang: Language
    force: bool = Field(False, description="Also translate between languages that the model was not trained on.")
    beam_width: Annotated[int, Field(ge=1, le=MAX_BEAM_WIDTH)] | None = Field(
        None,
        description="Width of the beam search for the likeliest translation of a sentence; 1: greedy decoding.",
    )

    def params(self, service: GenerationService) -> TranslateParams:
        return TranslateParams(
            self.text,
            self.target_lang,
            self.sampling_params(service, max_tokens=DEFAULT_MAX_TOKENS, defaults=GREEDY),
            source_lang=None if self.source_lang == AUTO else self.source_lang,
            beam_width=self.beam_width,
            force=self.force,
            options=self.text_options,
        )


class Translation(BaseModel):
    """`detected`: the source language was detected, not given."""

    text: str
    source_lang: str
    detected: bool
    finish_reason: str
    routing: Omittable[AnswerRouting] = None


class TranslateResponse(BaseModel):
    id: str
    object: Literal["translation"] = "translation"
    model: str
    translations: list[Translation]
    usage: UsageInfo
    warnings: list[str] = []


@router.post("/translate", response_model=TranslateResponse, summary="Translate text")
async def translate(body: TranslateRequest, context: Context) -> Any:
    """Translate between English, Chinese, German and French, keeping lines and paragraphs.

    A model that was trained on single sentences, such as the bundled one, translates a text sentence by sentence, with
    a beam search for each (`beam_width`), and streams whole sentences. `max_tokens` then limits each sentence, and a
    `stop` string ends the text in the sentence that has it.

    With `stream`: events `{"object": "translation.chunk", "id", "index", "delta"}`, where `index` counts the texts,
    then one `{"object": "translation.done", "id", "model", "translations": [{"source_lang", "detected",
    "finish_reason"}], "warnings", "finish_reason", "usage"}`, then `[DONE]`.
    """
    service, answer_id = context.accept(body), f"trans-{context.admission.request_id}"
    translation = await start_translation(context.admission, body.params(service))
    warnings = [*translation.warnings, *body.warnings]
    details = partial(_details, translation.source_langs, body.source_lang == AUTO)
    if body.stream:

        def done(reasons: Sequence[FinishReason]) -> Event:
            return {"translations": details(reasons), "warnings": warnings}

        return context.stream(task_events("translation", answer_id, context, translation.generations, done))
    results = await context.until_disconnect(all_results(translation.generations))
    texts = zip(results, details([result.finish_reason for result in results]), strict=True)
    return TranslateResponse(
        id=answer_id,
        model=context.admission.model_name,
        translations=[
            Translation(text=result.text, routing=answer_routing(result, context.admission.routing), **detail)
            for result, detail in texts
        ],
        usage=usage_of(context.admission.generations),
        warnings=warnings,
    )


def _details(source_langs: Sequence[str], detected: bool, reasons: Sequence[FinishReason]) -> list[Event]:
    """The fields of each translation besides its text."""
    return [
        {"source_lang": source, "detected": detected, "finish_reason": reason}
        for source, reason in zip(source_langs, reasons, strict=True)
    ]
