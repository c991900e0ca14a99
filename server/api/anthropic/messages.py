"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's chat, streamed or whole."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from server.api.anthropic.answers import (
    EVENTS,
    MessageAnswer,
    content_block,
    message_events,
    message_usage,
    stop_reason,
)
from server.api.anthropic.conversation import ConversationFields
from server.api.dependencies import Context
from server.api.sampling import SamplingFields
from server.api.single_answer import start_answer
from server.chat.blocks import blocks_of

router = APIRouter(prefix="/v1/messages", tags=["Anthropic"])

_NAMES = {"reasoning_effort": "output_config.effort", "enable_thinking": "thinking"}


class MessagesRequest(SamplingFields, ConversationFields):
    stream: bool | None = None


class CountTokensRequest(ConversationFields):
    """A conversation as /v1/messages takes it."""


class TokenCount(BaseModel):
    input_tokens: int


@router.post("", response_model=MessageAnswer, summary="Answer a conversation, as Anthropic does")
async def messages(body: MessagesRequest, context: Context) -> Any:
    """Anthropic's messages. With `stream` the answer is server-sent events from message_start to message_stop."""
    answer = await start_answer(context, body, body.chat_request(), body, names=_NAMES)
    message = MessageAnswer(
        id=f"msg_{context.admission.request_id}",
        model=body.model or context.service.model_id,
        content=[],
        stop_reason=None,
        stop_sequence=None,
        usage=message_usage(answer.usage),
        warnings=body.warnings,
    )
    if body.stream:
        return context.stream(message_events(message, answer), EVENTS)
    result = await context.until_disconnect(answer.result())
    return message.model_copy(
        update={
            "content": [content_block(block) for block in blocks_of(result)],
            "stop_reason": stop_reason(result.finish_reason, answer.stop_string),
            "stop_sequence": answer.stop_string,
            "usage": message_usage(result.usage),
        }
    )


@router.post("/count_tokens", summary="Count the tokens of a conversation, as Anthropic does")
async def count_tokens(body: CountTokensRequest, context: Context) -> TokenCount:
    """The tokens of the prompt that /v1/messages would make of this body."""
    context.accept(body)
    prompt = await context.chat.prompt(body.chat_request())
    return TokenCount(input_tokens=len(prompt.token_ids))
