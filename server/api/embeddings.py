"""POST /v1/embeddings: one vector per text, in OpenAI's shape."""

import asyncio
import base64
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Discriminator, Field, Tag
from pydantic_core import to_json

from server.api.dependencies import Context, RequestContext
from server.api.prompts import TokenIds, prompt_form, prompt_items
from server.api.request_model import FirstErrorOnly, ModelName, Text, WholeNumber
from server.api.response_model import Warnings, usage_of
from server.api.scheduling import SchedulingFields
from server.tasks.embed import EmbedOptions, Vector, embed

router = APIRouter(tags=["OpenAI"])

MAX_INPUTS = 2048  # OpenAI's own limit
MAX_DIMENSIONS = 65_536

Dimensions = Annotated[
    int, Field(ge=1, le=MAX_DIMENSIONS, description="Only of models trained to be cut (Matryoshka)."), WholeNumber
]
PromptName = Annotated[
    str, Field(max_length=256, description="One of the checkpoint's prompts, such as `query`, is put before each text.")
]
Texts = Annotated[list[Text], FirstErrorOnly, Field(min_length=1, max_length=MAX_INPUTS)]
EmbeddingInput = Annotated[
    Annotated[Text, Tag("[text]")]
    | Annotated[Texts, Tag("[texts]")]
    | Annotated[TokenIds, Tag("[token ids]")]
    | Annotated[
        list[TokenIds], FirstErrorOnly, Field(min_length=1, max_length=MAX_INPUTS), Tag("[lists of token ids]")
    ],
    Discriminator(prompt_form),
]


class EmbeddingsRequest(SchedulingFields):
    model: ModelName | None = None
    input: EmbeddingInput
    encoding_format: Annotated[Literal["float", "base64"], Field(description="base64: of float32, little-endian.")] = (
        "float"
    )
    dimensions: Dimensions | None = None
    prompt_name: PromptName | None = None


class Embedding(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingsUsage
    warnings: Warnings = []


@router.post("/v1/embeddings", response_model=EmbeddingsResponse, summary="Make embeddings of texts")
async def embeddings(body: EmbeddingsRequest, context: Context) -> Any:
    """Vectors of texts, pooled and normalized as the checkpoint says; other checkpoints get a 400."""
    service = context.accept(body)
    vectors = await context.until_disconnect(
        embed(context.admission, prompt_items(body.input), EmbedOptions(body.prompt_name, body.dimensions))
    )
    prompt_tokens = usage_of(context.admission.generations).prompt_tokens
    rest = {
        "model": body.model or service.model_id,
        "usage": {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens},
    } | ({"warnings": body.warnings} if body.warnings else {})
    shown = _base64 if body.encoding_format == "base64" else float_list
    items = (
        {"object": "embedding", "index": index, "embedding": shown(vector)} for index, vector in enumerate(vectors)
    )
    return await json_with_list(context, {"object": "list"}, "data", items, rest)


def float_list(vector: Vector) -> list[float]:
    found: list[float] = vector.tolist()
    return found


def _base64(vector: Vector) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")


async def json_with_list(
    context: RequestContext, before: dict[str, Any], name: str, items: Iterable[Any], after: dict[str, Any]
) -> Response:
    """A JSON object with a long list, item by item: a million numbers at once would hold up other requests."""
    parts = []
    for item in items:
        await asyncio.sleep(0)
        parts.append(to_json(item))
    head, tail = to_json(before)[1:-1], to_json(after)[1:-1]
    fields = (head, to_json(name) + b":[" + b",".join(parts) + b"]", tail)
    content = b"{" + b",".join(field for field in fields if field) + b"}"
    return Response(content, headers=dict(context.response.headers), media_type="application/json")
