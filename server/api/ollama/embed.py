"""POST /api/embed and the older /api/embeddings: vectors in Ollama's shape."""

import time
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field

from server.api.dependencies import Context
from server.api.embeddings import Dimensions, PromptName, Texts, float_list, json_with_list
from server.api.ollama.fields import OllamaBody
from server.api.request_model import OneAsList, Text
from server.api.response_model import usage_of
from server.tasks.embed import EmbedOptions, embed, normalized

router = APIRouter(tags=["Ollama"])


class OllamaEmbedRequest(OllamaBody):
    input: Annotated[Texts, OneAsList]
    truncate: Annotated[bool, Field(description="false: refuse texts that are too long.")] = True
    dimensions: Dimensions | None = None
    prompt_name: PromptName | None = None


class OllamaEmbeddingsRequest(OllamaBody):
    prompt: Text


@router.post("/api/embed", summary="Make embeddings of texts, as Ollama does")
async def embed_texts(body: OllamaEmbedRequest, context: Context) -> Any:
    """The vectors have the length 1. Only for checkpoints that are made for embeddings."""
    started = time.monotonic_ns()
    service = context.accept(body)
    options = EmbedOptions(body.prompt_name, body.dimensions, body.truncate)
    vectors = await context.until_disconnect(embed(context.admission, body.input, options))
    after = {
        "total_duration": time.monotonic_ns() - started,
        "load_duration": 0,
        "prompt_eval_count": usage_of(context.admission.generations).prompt_tokens,
    }
    items = (float_list(normalized(vector)) for vector in vectors)
    return await json_with_list(context, {"model": body.model or service.model_id}, "embeddings", items, after)


@router.post("/api/embeddings", summary="Make the embedding of a text, as older Ollama does")
async def embed_text(body: OllamaEmbeddingsRequest, context: Context) -> Any:
    """One vector, as the checkpoint pools and normalizes it."""
    context.accept(body)
    (vector,) = await context.until_disconnect(embed(context.admission, [body.prompt], EmbedOptions(truncate=True)))
    return {"embedding": float_list(vector)}
