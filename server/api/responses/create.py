"""POST /v1/responses: OpenAI's responses, streamed or whole. Nothing is stored: each request has all of its input."""

import time
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from server.api.dependencies import Context
from server.api.responses.events import EVENTS, response_events
from server.api.responses.fields import ResponsesRequest
from server.api.responses.output import ResponseHead
from server.api.single_answer import start_answer
from server.chat.blocks import whole_answer

router = APIRouter(tags=["OpenAI"])


class ResponseObject(BaseModel):
    """`output`: items of the types reasoning, message and function_call. The settings of the request are repeated."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: str
    created_at: int
    status: str
    model: str
    output: list[dict[str, Any]]
    usage: dict[str, Any] | None


@router.post("/v1/responses", response_model=ResponseObject, summary="Answer a conversation, by items")
async def create_response(body: ResponsesRequest, context: Context) -> Any:
    """OpenAI's responses without storage. With `stream` the answer is numbered server-sent events."""
    names = {"reasoning_effort": "reasoning.effort"}
    answer = await start_answer(context, body, body.chat_request(), body, names=names, logprobs=body.num_logprobs)
    model = body.model or context.service.model_id
    head = ResponseHead(context.admission.request_id, int(time.time()), model, body)
    if body.stream:
        return context.stream(response_events(head, answer), EVENTS)
    end = await context.until_disconnect(whole_answer(answer))
    return head.finished(end.reason, end.blocks, answer)
