"""Embeddings: one vector per text, as the files of the checkpoint say, see model/loading/pooling.py."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from model.loading.pooling import Pooling
from server.engine.types import SamplingParams
from server.errors import InvalidRequestError, PromptTooLongError
from server.generation.admission import Admission
from server.generation.prompt import Prompt
from server.generation.run_in_thread import run_in_thread
from server.generation.service import GenerationService
from server.tasks.sub_generations import MAX_PARALLEL, run_sub_generations

Vector = np.ndarray[tuple[int], np.dtype[np.float32]]

NOTHING_GENERATED = SamplingParams(max_tokens=0)


@dataclass(frozen=True, slots=True)
class EmbedOptions:
    """How texts become vectors. The defaults are those of the checkpoint.

    `prompt_name` chooses one of the checkpoint's prompts. `dimensions` cuts the vectors. `truncate` cuts off the end of
    texts that are too long; otherwise they are refused.
    """

    prompt_name: str | None = None
    dimensions: int | None = None
    truncate: bool = False


async def embed(admission: Admission, inputs: Sequence[str | Sequence[int]], options: EmbedOptions) -> list[Vector]:
    """The vectors of texts, or of token ids, which are used as they are.

    Raises InvalidRequestError for a model that makes no embeddings, and for options that it does not have.
    """
    service = admission.service
    pooling = _pooling(service)
    _check_dimensions(pooling, options.dimensions, service.facts.hidden_size)
    lead, limit = _prompt_text(pooling, options.prompt_name), _max_length(service, pooling)
    prompts = []
    for item in inputs:
        await asyncio.sleep(0)  # other requests get their turn between two texts
        prompts.append(replace(await _prompt(service, item, lead, limit, options.truncate), pooling=pooling.type))
    vectors = []
    for first in range(0, len(prompts), MAX_PARALLEL):  # Python numbers take eight times the memory: few at once
        for result in await run_sub_generations(admission, prompts[first : first + MAX_PARALLEL], NOTHING_GENERATED):
            vectors.append(_vector(result.embedding, pooling, options.dimensions))
    return vectors


def _pooling(service: GenerationService) -> Pooling:
    if service.pooling is None:
        raise InvalidRequestError(
            f"{service.model_id} makes no embeddings: serve a checkpoint that has the files of "
            "sentence-transformers, such as Qwen3-Embedding.",
            param="model",
            code="unsupported_model",
        )
    return service.pooling


def _check_dimensions(pooling: Pooling, dimensions: int | None, width: int) -> None:
    if dimensions is not None and dimensions > width:
        raise InvalidRequestError(f"dimensions: the vectors of this model have {width}.", param="dimensions")
    widths = pooling.matryoshka_dimensions
    if dimensions is None or widths == () or (widths is not None and dimensions in widths):
        return
    told = (
        f"this model has {', '.join(map(str, widths))}."
        if widths
        else "this model was not trained to be cut (its config.json has neither is_matryoshka nor "
        "matryoshka_dimensions); leave it out."
    )
    raise InvalidRequestError(f"dimensions: {told}", param="dimensions")


def _prompt_text(pooling: Pooling, name: str | None) -> str:
    if name is None:
        return pooling.default_prompt
    if name not in pooling.prompts:
        known = ", ".join(pooling.prompts) or "none"
        raise InvalidRequestError(f"prompt_name: this model has the prompts {known}.", param="prompt_name")
    return pooling.prompts[name]


def _max_length(service: GenerationService, pooling: Pooling) -> int:
    return min(service.max_model_len, pooling.max_length or service.max_model_len)


async def _prompt(
    service: GenerationService, item: str | Sequence[int], lead: str, limit: int, truncate: bool
) -> Prompt:
    if isinstance(item, str):
        encode = partial(service.tokenizer.encode_whole, max_length=limit if truncate else None)
        token_ids = await run_in_thread(encode, lead + item)
    else:
        service.check_token_ids(item, "input")
        token_ids = list(item[:limit] if truncate else item)
    if not token_ids:
        raise InvalidRequestError("A text is empty, and this model has no token to end it with.", param="input")
    if len(token_ids) > limit:
        raise PromptTooLongError(
            f"This model's maximum context length is {limit} tokens, but a text has {len(token_ids)}. Shorten it.",
            param="input",
        )
    return Prompt(tuple(token_ids))


def _vector(values: Sequence[float], pooling: Pooling, dimensions: int | None) -> Vector:
    vector = np.asarray(values[:dimensions], dtype=np.float32)
    return normalized(vector) if pooling.normalizes else vector


def normalized(vector: Vector) -> Vector:
    """The vector with the length 1; a vector of zeros stays as it is."""
    length = np.maximum(np.linalg.norm(vector), np.float32(1e-12))
    unit: Vector = vector / length
    return unit
