"""GET /version, /props and /tokenizer_info: what tools of vLLM and llama.cpp ask a server about itself."""

from fastapi import APIRouter
from pydantic import BaseModel

from server.api.dependencies import Service
from server.version import package_version

router = APIRouter(tags=["Server"])


class Version(BaseModel):
    version: str


class GenerationSettings(BaseModel):
    n_ctx: int


class Modalities(BaseModel):
    vision: bool = False
    audio: bool = False


class Props(BaseModel):
    """`total_slots`: how many requests may run and wait at once."""

    default_generation_settings: GenerationSettings
    total_slots: int
    model_alias: str
    model_path: str
    chat_template: str
    bos_token: str
    eos_token: str
    modalities: Modalities = Modalities()
    build_info: str


class TokenizerInfo(BaseModel):
    """`chat_template` is null for a model that cannot chat; `bos_token` and `eos_token` are null if not known."""

    tokenizer_class: str = "PreTrainedTokenizerFast"
    model_max_length: int
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None = None
    chat_template: str | None


@router.get("/version", summary="Version of the server")
async def version() -> Version:
    """The version of RouteLM."""
    return Version(version=package_version("routelm"))


@router.get("/props", summary="Properties, as llama.cpp tells them")
async def props(service: Service) -> Props:
    """The context's length, the chat template and the tokens that begin and end a text."""
    template = service.chat_template
    return Props(
        default_generation_settings=GenerationSettings(n_ctx=service.max_model_len),
        total_slots=service.engine.capacity,
        model_alias=service.model_id,
        model_path=service.model_id,
        chat_template=template.source if template else "",
        bos_token=template.bos_token if template else "",
        eos_token=template.eos_token if template else "",
        build_info=f"routelm {package_version('routelm')}",
    )


@router.get("/tokenizer_info", summary="The tokenizer, as vLLM tells it")
async def tokenizer_info(service: Service) -> TokenizerInfo:
    """What evaluation harnesses need to build prompts by way of /tokenize."""
    template = service.chat_template
    return TokenizerInfo(
        model_max_length=service.max_model_len,
        bos_token=(template.bos_token or None) if template else None,
        eos_token=(template.eos_token or None) if template else None,
        chat_template=(template.source or None) if template else None,
    )
