"""POST /v1/generate: text that goes on from a prompt."""

from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from server.api.dependencies import RequestAdmission
from server.api.disconnect import until_disconnect
from server.api.request_model import Text
from server.api.sse import EventStream
from server.api.tasks import GREEDY, TaskFields, task_events
from server.api.usage import UsageInfo, usage_of

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


@router.post("/generate", response_model=GenerateResponse, summary="Continue a text")
async def generate(request: Request, body: GenerateRequest, admission: RequestAdmission) -> Any:
    """Continue plain text, without a chat template. The likeliest text by default; raise `temperature` for variety.

    With `stream`: events `{"object": "generation.chunk", "id", "index": 0, "delta"}`, then one `{"object":
    "generation.done", "id", "model", "finish_reason", "usage"}`, then `[DONE]`.
    """
    service, answer_id = admission.service, f"gen-{admission.request_id}"
    service.check_model(body.model)
    sampling = body.sampling_params(service, max_tokens=DEFAULT_MAX_TOKENS, defaults=GREEDY)
    prompt = await service.text_prompt(body.prompt)
    [generation] = admission.start([prompt], sampling, body.stop_strings)
    if body.stream:
        return EventStream(task_events("generation", answer_id, admission, [generation], lambda _: {}))
    result = await until_disconnect(request, generation.result())
    return GenerateResponse(
        id=answer_id,
        model=service.model_id,
        text=result.text,
        finish_reason=result.finish_reason,
        usage=usage_of(admission.generations),
    )
