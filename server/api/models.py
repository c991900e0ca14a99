"""GET /v1/models: the one model that is served."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from server.api.dependencies import Service
from server.service import GenerationService

router = APIRouter(prefix="/v1", tags=["OpenAI"])


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "routelm"
    max_model_len: int


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


@router.get("/models", summary="List the models")
async def list_models(service: Service) -> ModelList:
    """The served model and how many tokens its context holds."""
    return ModelList(data=[_card(service)])


@router.get("/models/{model_id:path}", summary="Describe a model")
async def get_model(model_id: str, service: Service) -> ModelCard:
    """The same for one model; 404 for a model that is not served."""
    service.check_model(model_id)
    return _card(service)


def _card(service: GenerationService) -> ModelCard:
    return ModelCard(id=service.model_id, created=service.created, max_model_len=service.max_model_len)
