"""POST /v1/generate: text that goes on from a prompt."""

from dataclasses import replace
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel

from model.text.chat_formats.chat_format import PromptEnd
from server.api.dependencies import Context
from server.api.request_model import Text
from server.api.response_format import GrammarFields
from server.api.response_model import Omittable, UsageInfo, Warnings, usage_of
from server.api.routing_fields import AnswerRouting, RoutingFields, answer_routing
from server.api.tasks import TaskFields, task_events

router = APIRouter(prefix="/v1", tags=["Tasks"])

DEFAULT_MAX_TOKENS = 256


class TextGenerationRequest(TaskFields, GrammarFields, RoutingFields):
    prompt: Text


class GenerateResponse(BaseModel):
    id: str
    object: Literal["generation"] = "generation"
    model: str
    text: str
    finish_reason: str
    usage: UsageInfo
    routing: Omittable[AnswerRouting] = None
    warnings: Warnings = []


@router.post("/generate", response_model=GenerateResponse, summary="Continue a text")
async def generate(body: TextGenerationRequest, context: Context) -> Any:
    """Continue plain text, without a chat template, sampled as the checkpoint's generation_config.json says.

    Reasoning with which the model begins is left out.

    With `stream`: events `{"object": "generation.chunk", "id", "index": 0, "delta"}`, then one `{"object":
    "generation.done", "id", "model", "finish_reason", "usage"}`, then `[DONE]`.
    """
    service, answer_id = context.accept(body), f"gen-{context.admission.request_id}"
    sampling = body.sampling_params(service, max_tokens=DEFAULT_MAX_TOKENS, defaults=service.plain_text_defaults)
    sampling = replace(sampling, grammar=await body.compile_grammar(service))
    parser = service.chat_format.content_parser(PromptEnd())
    prompt = replace(await service.text_prompt(body.prompt), content_parser=parser)
    [generation] = context.admission.start([prompt], sampling, body.text_options)
    if body.stream:
        return context.stream(
            task_events(
                "generation",
                answer_id,
                context,
                [generation],
                lambda _: {"warnings": body.warnings} if body.warnings else {},
            )
        )
    result = await context.until_disconnect(generation.result())
    return GenerateResponse(
        id=answer_id,
        model=context.admission.model_name,
        text=result.text,
        finish_reason=result.finish_reason,
        usage=usage_of(context.admission.generations),
        routing=answer_routing(result, context.admission.routing),
        warnings=body.warnings,
    )
