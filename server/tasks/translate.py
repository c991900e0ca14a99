"""Translate texts, sentence by sentence where the model learnt to translate sentences."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from model.text.language_detection import detect_language
from model.text.sentence_split import Sentence, SentenceSplit, gap_before, split_sentences
from server.engine.types import SamplingParams
from server.engine.validation import unsupported_by_beam_search
from server.errors import InvalidRequestError
from server.generation.admission import Admission
from server.generation.run_in_thread import run_in_thread
from server.generation.segments import MAX_PARALLEL_SEGMENTS, Segment, SegmentedPrompt
from server.generation.service import DEFAULT_OPTIONS, GenerationService
from server.generation.stream import RunningGeneration, TextOptions

MAX_SENTENCES = 4096  # of all texts together


@dataclass(frozen=True, slots=True)
class TranslateParams:
    """`source_lang` None: detect it for each text. `beam_width` None: the width that was measured to be worth its time.

    `force` translates between languages that the model was not trained on, too.
    """

    texts: Sequence[str]
    target_lang: str
    sampling: SamplingParams
    source_lang: str | None = None
    beam_width: int | None = None
    force: bool = False
    options: TextOptions = DEFAULT_OPTIONS


@dataclass(frozen=True, slots=True)
class RunningTranslation:
    """One generation for each text, the language each text is translated from, and warnings about their quality."""

    generations: list[RunningGeneration]
    source_langs: list[str]
    warnings: list[str]


async def start_translation(admission: Admission, params: TranslateParams) -> RunningTranslation:
    """Start the translation of all texts.

    Raises InvalidRequestError for a text that is in the target language already, for a pair of languages that the
    model did not learn, and for too many sentences.
    """
    service = admission.service
    source_langs = [_source_language(params, index) for index in range(len(params.texts))]
    for source in source_langs:
        _check_pair(service, params, source)
    splits = await _split(service, params.texts)
    parallel = max(1, MAX_PARALLEL_SEGMENTS // len(splits))
    prompts = [
        await _segmented_prompt(service, split, source, params.target_lang, parallel)
        for split, source in zip(splits, source_langs, strict=True)
    ]
    generations = admission.start(prompts, _beam_search(service, params), params.options)
    return RunningTranslation(generations, source_langs, _quality_warnings(service, source_langs, params.target_lang))


def _beam_search(service: GenerationService, params: TranslateParams) -> SamplingParams:
    """Beam search is the default, unless the client asks for something that beam search cannot do."""
    if params.beam_width is None and unsupported_by_beam_search(params.sampling):
        return params.sampling
    return replace(params.sampling, beam_width=params.beam_width or service.prompts.translation_beams)


def _quality_warnings(service: GenerationService, source_langs: Sequence[str], target: str) -> list[str]:
    pairs = dict.fromkeys(f"{source}-{target}" for source in source_langs)
    return [warning for pair in pairs for warning in service.quality.warnings("translate", pair)]


def _source_language(params: TranslateParams, index: int) -> str:
    source = params.source_lang or detect_language(params.texts[index])
    if source == params.target_lang:
        found = "was found to be" if params.source_lang is None else "is said to be"
        raise InvalidRequestError(
            f"Text {index} {found} in '{source}' already, the target language; set source_lang to the right one.",
            param="source_lang",
        )
    return source


def _check_pair(service: GenerationService, params: TranslateParams, source: str) -> None:
    """Raise InvalidRequestError if the model did not learn this direction and the client does not insist."""
    pairs = service.prompts.translation_pairs
    if params.force or pairs is None or (source, params.target_lang) in pairs:
        return
    learnt = ", ".join(f"{first}-{second}" for first, second in sorted(pairs))
    raise InvalidRequestError(
        f"This model did not learn to translate {source}-{params.target_lang}; it learnt {learnt}. Translate by way "
        "of English, or set force to true to see what comes.",
        param="target_lang",
    )


async def _split(service: GenerationService, texts: Sequence[str]) -> list[SentenceSplit]:
    """Cut each text into the parts that are translated one by one: sentences, or the whole text."""
    if not service.prompts.sentence_by_sentence:
        return [SentenceSplit((Sentence("", text),), "") for text in texts]
    splits = [await run_in_thread(split_sentences, text) for text in texts]
    total = sum(len(split.sentences) for split in splits)
    if total > MAX_SENTENCES:
        raise InvalidRequestError(
            f"{total} sentences are too many; at most {MAX_SENTENCES} are taken at once.", param="text"
        )
    return splits


async def _segmented_prompt(
    service: GenerationService, split: SentenceSplit, source: str, target: str, parallel: int
) -> SegmentedPrompt:
    segments = []
    for index, sentence in enumerate(split.sentences):
        prompt = await service.task_prompt(service.prompts.translate(sentence.text, source, target))
        segments.append(Segment(gap_before(split.sentences, index, spaced=target != "zh"), prompt))
    return SegmentedPrompt(tuple(segments), split.after, parallel)
