"""POST /v1/generate: text that goes on from a prompt."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel

from server.api.dependencies import Admitted, RequestId, Service, admission
from server.api.disconnect import until_disconnect
from server.api.request_model import Text
from server.api.sse import EventStream
from server.api.tasks import GREEDY, TaskFields, task_events
from server.api.usage import UsageInfo

router = APIRouter(prefix="/v1", tags=["Tasks"])

DEFAULT_MAX_TOKENS = 256


class GenerateRequest(TaskFields):
    prompt: Text


class GenerateResponse(BaseModel):
    id: str
    object: Literal["generation"] = "generation"
    model: str
    text: str
    finish_reason: str
    usage: UsageInfo


Work = Admitted[GenerateRequest]


async def admit(body: GenerateRequest, service: Service, request_id: RequestId) -> AsyncIterator[Work]:
    """Encode, submit; abort what still runs when the request ends."""
    service.check_model(body.model)
    sampling = body.sampling_params(service, max_tokens=DEFAULT_MAX_TOKENS, defaults=GREEDY)
    prompt = await service.text_prompt(body.prompt)
    with admission(service, request_id, [prompt], sampling, body.stop_strings) as generations:
        yield Admitted(f"gen-{request_id}", body, generations)


@router.post("/generate", response_model=GenerateResponse, summary="Continue a text")
async def generate(request: Request, service: Service, work: Annotated[Work, Depends(admit)]) -> Any:
    """Continue plain text, without any chat form. The likeliest text by default; raise `temperature` for variety.

    With `stream`: events `{"object": "generation.chunk", "id", "index": 0, "delta"}`, then one `{"object":
    "generation.done", "id", "model", "finish_reason", "usage"}`, then `[DONE]`.
    """
    if work.body.stream:
        return EventStream(task_events("generation", work, service.model_id, lambda _: {}))
    [result] = await until_disconnect(request, work.results())
    return GenerateResponse(
        id=work.id,
        model=service.model_id,
        text=result.text,
        finish_reason=result.finish_reason,
        usage=work.usage,
    )
