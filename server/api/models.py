"""GET /v1/models: the model that is served, under each of its names, and its LoRA adapters."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from server.api.dependencies import Service
from server.api.openapi_errors import errors
from server.generation.service import GenerationService

router = APIRouter(prefix="/v1", tags=["OpenAI"])


class ExpertsQuality(BaseModel):
    """Mean scores by task and metric, as measured with this number of experts per token."""

    experts_per_token: int
    scores: dict[str, float]


class ModelCard(BaseModel):
    """`native_tasks`: the tasks the model was trained for with task tags; others are asked for in plain English.

    `translation_pairs`: the directions it learnt, such as "en-de"; null if that is not known.
    `warnings`: the tasks at which it was measured to be worse than a trivial baseline.
    `quality_by_experts_per_token`: what fewer or more experts cost or gain, where it was measured.
    `parent`: the model that a LoRA adapter changes; null for the model itself.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "routelm"
    parent: str | None
    max_model_len: int
    native_tasks: list[str]
    translation_pairs: list[str] | None
    warnings: list[str]
    quality_by_experts_per_token: list[ExpertsQuality]


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


@router.head("/models", include_in_schema=False)
@router.get("/models", summary="List the models")
async def list_models(service: Service) -> ModelList:
    """The served model and how many tokens its context holds. A model with several names is listed with each, and its
    LoRA adapters follow.
    """
    return ModelList(data=[_card(service, name) for name in (*service.served_names, *service.adapters)])


@router.head("/models/{model_id:path}", include_in_schema=False)
@router.get("/models/{model_id:path}", summary="Describe a model", responses=errors(404))
async def get_model(model_id: str, service: Service) -> ModelCard:
    """The same for one model; 404 for a model that is not served."""
    service.check_model(model_id)
    return _card(service, model_id)


def _card(service: GenerationService, name: str) -> ModelCard:
    pairs = service.prompts.translation_pairs
    return ModelCard(
        id=name,
        created=service.created,
        parent=service.model_id if name in service.adapters else None,
        max_model_len=service.max_model_len,
        native_tasks=list(service.prompts.native_tasks),
        translation_pairs=None if pairs is None else sorted(f"{source}-{target}" for source, target in pairs),
        warnings=service.quality.all_warnings(),
        quality_by_experts_per_token=[
            ExpertsQuality(experts_per_token=row.experts, scores=dict(row.scores)) for row in service.quality.experts
        ],
    )
