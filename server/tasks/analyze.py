"""Analyze texts: the probability of each given label, or what a JSON schema asks of the text."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from model.text.chat_formats.json_values import MAX_DEPTH, is_deeper, parsed
from server.engine.types import FinishReason, SamplingParams
from server.errors import InvalidRequestError
from server.generation.admission import Admission
from server.generation.grammar import JsonSchemaGrammar
from server.generation.stream import GenerationResult, TextOptions
from server.tasks.label_scoring import ScoringRequest, probabilities, score_continuations
from server.tasks.sub_generations import run_sub_generations

MAX_SCORES = 128  # texts times labels: each is a request to the engine


@dataclass(frozen=True, slots=True)
class Classification:
    """The likeliest label, and the probability of each label among the given ones: they sum to 1."""

    label: str
    scores: dict[str, float]


@dataclass(frozen=True, slots=True)
class Extraction:
    """A JSON value that is valid by the schema; None where the answer was cut off."""

    data: Any
    finish_reason: FinishReason


async def classify(admission: Admission, texts: Sequence[str], labels: Sequence[str]) -> list[Classification]:
    """Classify each text. Raises InvalidRequestError for more than MAX_SCORES pairs of text and label."""
    if len(texts) * len(labels) > MAX_SCORES:
        raise InvalidRequestError(
            f"{len(texts)} texts times {len(labels)} labels is more than {MAX_SCORES}.", param="text"
        )
    service = admission.service
    prompts = [await service.task_prompt(service.prompts.analyze(text, labels)) for text in texts]
    rows = await score_continuations(admission, [ScoringRequest(prompt, labels) for prompt in prompts])
    return [_classification(labels, [score.log_likelihood for score in row]) for row in rows]


async def extract(
    admission: Admission,
    texts: Sequence[str],
    grammar: JsonSchemaGrammar,
    sampling: SamplingParams,
    options: TextOptions,
) -> list[Extraction]:
    """Write a value of the schema for each text. Raises InvalidRequestError for a schema that cannot be used."""
    service = admission.service
    constrained = replace(sampling, grammar=await service.compile_grammar(grammar))
    schema = await asyncio.to_thread(json.dumps, grammar.parsed(), ensure_ascii=False)
    prompts = [await service.task_prompt(service.prompts.extract(text, schema)) for text in texts]
    for prompt in prompts:
        service.check_length(prompt)
    return [_extraction(result) for result in await run_sub_generations(admission, prompts, constrained, options)]


def _classification(labels: Sequence[str], log_likelihoods: Sequence[float]) -> Classification:
    scores = dict(zip(labels, probabilities(log_likelihoods), strict=True))
    return Classification(max(labels, key=lambda label: scores[label]), scores)


def _extraction(result: GenerationResult) -> Extraction:
    data = parsed(result.text)
    return Extraction(None if is_deeper(data, MAX_DEPTH) else data, result.finish_reason)
