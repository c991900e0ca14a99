"""POST /v1/translate: one text or a list of texts into another language."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from model.text.language_detection import detect_language
from model.text.sentence_split import Sentence, SentenceSplit, gap_before, split_sentences
from server.api.dependencies import Admitted, RequestId, Service, admission
from server.api.disconnect import until_disconnect
from server.api.request_model import Language, NonBlankText, OneAsList
from server.api.sse import Event, EventStream
from server.api.tasks import GREEDY, TaskFields, task_events
from server.api.usage import UsageInfo
from server.engine.types import FinishReason
from server.engine.validation import MAX_BEAM_WIDTH, without_meaning_in_a_search
from server.errors import InvalidRequestError
from server.generation.run_in_thread import off_loop
from server.generation.segments import AHEAD, Segment, SegmentedPrompt
from server.generation.service import GenerationService

router = APIRouter(prefix="/v1", tags=["Tasks"])

MAX_TEXTS = 32
MAX_SENTENCES = 4096  # of all texts together
DEFAULT_MAX_TOKENS = 512


class TranslateRequest(TaskFields):
    text: Annotated[list[NonBlankText], Field(min_length=1, max_length=MAX_TEXTS), OneAsList]
    source_lang: Language | Literal["auto"] = "auto"
    target_lang: Language
    force: bool = Field(False, description="Translate between languages the model was not trained on, too.")
    beam_width: Annotated[int, Field(ge=1, le=MAX_BEAM_WIDTH)] | None = Field(
        None,
        description="How many translations of a sentence are weighed side by side; 1: none but the likeliest words.",
    )


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
    warnings: list[str] = []


Work = Admitted[TranslateRequest]


async def admit(body: TranslateRequest, service: Service, request_id: RequestId) -> AsyncIterator[Work]:
    """Find the languages, render, submit; abort what still runs when the request ends."""
    service.check_model(body.model)
    sampling = body.sampling_params(service, max_tokens=DEFAULT_MAX_TOKENS, defaults=GREEDY)
    if body.beam_width is not None or not without_meaning_in_a_search(sampling):
        sampling = replace(sampling, beam_width=body.beam_width or service.prompts.translation_beams)
    sources = [_source_language(body, index) for index in range(len(body.text))]
    for source in sources:
        _check_pair(service, body, source)
    splits = await _splits(service, body.text)
    ahead = max(1, AHEAD // len(splits))
    prompts = [
        await _segmented(service, split, source, body.target_lang, ahead)
        for split, source in zip(splits, sources, strict=True)
    ]
    with admission(service, request_id, prompts, sampling, body.stop_strings) as generations:
        yield Admitted(f"trans-{request_id}", body, generations, extra=sources)


@router.post("/translate", response_model=TranslateResponse, summary="Translate text")
async def translate(request: Request, service: Service, work: Annotated[Work, Depends(admit)]) -> Any:
    """Translate between English, Chinese, German and French, keeping lines and paragraphs.

    A model that was trained on single sentences, as the bundled one was, is given a text sentence by sentence, and
    searches for the best translation of each among several (`beam_width`); it then streams whole sentences. There
    `max_tokens` is that of a sentence, and a `stop` string ends the text at the sentence it comes in.

    With `stream`: events `{"object": "translation.chunk", "id", "index", "delta"}`, where `index` counts the texts,
    then one `{"object": "translation.done", "id", "model", "translations": [{"source_lang", "detected",
    "finish_reason"}], "warnings", "finish_reason", "usage"}`, then `[DONE]`.
    """
    warnings = _warnings(service, work)
    if work.body.stream:

        def streamed(reasons: Sequence[FinishReason]) -> Event:
            return _details(work, reasons) | {"warnings": warnings}

        return EventStream(task_events("translation", work, service.model_id, streamed))
    results = await until_disconnect(request, work.results())
    details = _details(work, [result.finish_reason for result in results])["translations"]
    return TranslateResponse(
        id=work.id,
        model=service.model_id,
        translations=[Translation(text=result.text, **detail) for result, detail in zip(results, details, strict=True)],
        usage=work.usage,
        warnings=warnings,
    )


def _warnings(service: GenerationService, work: Work) -> list[str]:
    pairs = dict.fromkeys(f"{source}-{work.body.target_lang}" for source in work.extra)
    return [warning for pair in pairs for warning in service.quality.warnings("translate", pair)]


def _source_language(body: TranslateRequest, index: int) -> str:
    source = detect_language(body.text[index]) if body.source_lang == "auto" else body.source_lang
    if source == body.target_lang:
        found = "was found to be" if body.source_lang == "auto" else "is said to be"
        raise InvalidRequestError(
            f"Text {index} {found} in '{source}' already, the target language; set source_lang to the right one.",
            param="source_lang",
        )
    return source


def _check_pair(service: GenerationService, body: TranslateRequest, source: str) -> None:
    """Raise InvalidRequestError where the model did not learn that direction and the client does not insist."""
    pairs = service.prompts.translation_pairs
    if body.force or pairs is None or (source, body.target_lang) in pairs:
        return
    learnt = ", ".join(f"{first}-{second}" for first, second in sorted(pairs))
    raise InvalidRequestError(
        f"This model did not learn to translate {source}-{body.target_lang}; it learnt {learnt}. Translate by way of "
        "English, or set force to true to see what comes.",
        param="target_lang",
    )


async def _splits(service: GenerationService, texts: Sequence[str]) -> list[SentenceSplit]:
    """Each text in the parts that are translated one by one: its sentences, or all of it for a model that can."""
    if not service.prompts.sentence_by_sentence:
        return [SentenceSplit((Sentence("", text),), "") for text in texts]
    splits = [await off_loop(split_sentences, text) for text in texts]
    total = sum(len(split.sentences) for split in splits)
    if total > MAX_SENTENCES:
        raise InvalidRequestError(
            f"{total} sentences are too many; at most {MAX_SENTENCES} are taken at once.", param="text"
        )
    return splits


async def _segmented(
    service: GenerationService, split: SentenceSplit, source: str, target: str, ahead: int
) -> SegmentedPrompt:
    segments = []
    for index, sentence in enumerate(split.sentences):
        prompt = await service.chat_prompt(service.prompts.translate(sentence.text, source, target))
        segments.append(Segment(gap_before(split.sentences, index, spaced=target != "zh"), prompt))
    return SegmentedPrompt(tuple(segments), split.after, ahead)


def _details(work: Work, reasons: Sequence[FinishReason]) -> Event:
    detected = work.body.source_lang == "auto"
    return {
        "translations": [
            {"source_lang": source, "detected": detected, "finish_reason": reason}
            for source, reason in zip(work.extra, reasons, strict=True)
        ]
    }
