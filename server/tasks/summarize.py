"""Summarize a text, in the model's own words or with sentences of the text."""

from dataclasses import dataclass

from model.text.language_detection import detect_language
from server.engine.types import SamplingParams
from server.generation.admission import Admission
from server.generation.run_in_thread import run_in_thread
from server.generation.service import DEFAULT_OPTIONS, GenerationService
from server.generation.stream import FinishedGeneration, RunningGeneration, TextOptions
from server.tasks.extractive_summary import SENTENCES, count_sentences, extract_summary
from server.tasks.long_documents import map_reduce


@dataclass(frozen=True, slots=True)
class SummarizeParams:
    """`language` None: detect it. `method` None: the one that the model was measured to be better at.

    `sampling` and `options` do not matter to the method "extract", which samples nothing.
    """

    text: str
    sampling: SamplingParams
    language: str | None = None
    length: str = "medium"
    method: str | None = None
    options: TextOptions = DEFAULT_OPTIONS


@dataclass(frozen=True, slots=True)
class RunningSummary:
    """The generation that writes the summary, and how it is made."""

    generation: RunningGeneration
    language: str
    method: str


async def start_summary(admission: Admission, params: SummarizeParams) -> RunningSummary:
    """Start a summary. Returns when the sub-generations it needs are done and the summary itself has been started."""
    service = admission.service
    language = params.language or detect_language(params.text)
    method = params.method or await _best_method(service, params)
    if method == "extract":
        text = await extract_summary(admission, params.text, language, params.length)
        return RunningSummary(FinishedGeneration(text), language, method)
    text = await map_reduce(admission, params.text, language, params.sampling)
    prompt = await service.task_prompt(service.prompts.summarize(text, language, params.length))
    await admission.free_slots()
    [generation] = admission.start([prompt], params.sampling, params.options)
    return RunningSummary(generation, language, method)


async def _best_method(service: GenerationService, params: SummarizeParams) -> str:
    """Even a model that extracts better writes a long summary of a text of at most two sentences: it joins them."""
    if not service.prompts.summaries_from_sentences:
        return "generate"
    joins = params.length == "long" and await run_in_thread(count_sentences, params.text) <= SENTENCES["long"]
    return "generate" if joins else "extract"
