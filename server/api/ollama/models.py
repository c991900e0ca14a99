"""GET /api/tags, /api/ps and /api/version, POST /api/show: the model and its LoRA adapters, as Ollama lists them."""

import hashlib
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from model.text.chat_template import THINKING_SWITCHES
from server.api.dependencies import Context, Service
from server.api.ollama.answers import written
from server.api.ollama.fields import OllamaBody
from server.generation.service import GenerationService

router = APIRouter(tags=["Ollama"])

API_VERSION = "0.13.0"  # of the Ollama whose API this is: its clients ask for a minimum


class ModelDetails(BaseModel):
    parent_model: str = ""
    format: str = "safetensors"
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class ListedModel(BaseModel):
    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: ModelDetails


class LocalModels(BaseModel):
    models: list[ListedModel]


class RunningModel(ListedModel):
    expires_at: str
    size_vram: int = 0
    context_length: int


class RunningModels(BaseModel):
    models: list[RunningModel]


class ShowRequest(OllamaBody):
    verbose: Annotated[bool, Field(description="Makes no difference.")] = False


class Show(BaseModel):
    """`model_info` has the keys that programs read: architecture, parameters, context and embedding length."""

    modelfile: str = ""
    parameters: str
    template: str
    details: ModelDetails
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


class OllamaVersion(BaseModel):
    version: str = API_VERSION


@router.get("/api/version", summary="Version of Ollama's API")
async def version() -> OllamaVersion:
    """The version of Ollama whose API is served; that of RouteLM is at /version."""
    return OllamaVersion()


@router.get("/api/tags", summary="List the models, as Ollama does")
async def tags(service: Service) -> LocalModels:
    """The served model under each of its names, then its LoRA adapters."""
    return LocalModels(models=[ListedModel(**_listed(service, name)) for name in _names(service)])


@router.get("/api/ps", summary="List the loaded models, as Ollama does")
async def ps(service: Service) -> RunningModels:
    """The same: the model is always loaded."""
    never = written(datetime.max.replace(tzinfo=UTC))
    return RunningModels(
        models=[
            RunningModel(**_listed(service, name), expires_at=never, context_length=service.max_model_len)
            for name in _names(service)
        ]
    )


@router.post("/api/show", summary="Describe the model, as Ollama does")
async def show(body: ShowRequest, context: Context) -> Show:
    """Sizes, the chat template and what the model can do."""
    service = context.accept(body)
    facts, template = service.facts, service.chat_template
    defaults = service.defaults
    return Show(
        parameters="\n".join(
            f"{name:<30} {value}"
            for name, value in (
                ("temperature", defaults.temperature),
                ("top_k", defaults.top_k),
                ("top_p", defaults.top_p),
                ("min_p", defaults.min_p),
                ("repeat_penalty", defaults.repetition_penalty),
            )
        ),
        template=template.source if template else "",
        details=_details(service, body.model),
        model_info={
            "general.architecture": facts.family,
            "general.parameter_count": facts.num_parameters,
            f"{facts.family}.context_length": service.max_model_len,
            f"{facts.family}.embedding_length": facts.hidden_size,
        },
        capabilities=_capabilities(service),
        modified_at=_modified(service),
    )


def _capabilities(service: GenerationService) -> list[str]:
    if service.pooling is not None:
        return ["embedding"]
    found = {
        "completion": True,
        "tools": service.chat_template is not None,
        "thinking": any(map(service.template_uses, THINKING_SWITCHES)),
    }
    return [name for name, there in found.items() if there]


def _names(service: GenerationService) -> tuple[str, ...]:
    return (*service.served_names, *service.adapters)


def _listed(service: GenerationService, name: str) -> dict[str, Any]:
    facts = service.facts
    identity = name if name in service.adapters else service.model_id
    described = f"{identity} {facts.family} {facts.num_parameters} {facts.weight_scheme}"
    return {
        "name": name,
        "model": name,
        "modified_at": _modified(service),
        "size": facts.weight_bytes,
        "digest": hashlib.sha256(described.encode()).hexdigest(),
        "details": _details(service, name),
    }


def _details(service: GenerationService, name: str | None) -> ModelDetails:
    facts = service.facts
    return ModelDetails(
        parent_model=service.model_id if name in service.adapters else "",
        family=facts.family,
        families=[facts.family],
        parameter_size=_short(facts.num_parameters),
        quantization_level=facts.weight_scheme,
    )


def _short(number: int) -> str:
    """Ollama's way to write a number of parameters, such as 8.0B."""
    for limit, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= limit:
            return f"{number / limit:.1f}{unit}"
    return str(number)


def _modified(service: GenerationService) -> str:
    return written(datetime.fromtimestamp(service.created, UTC))
