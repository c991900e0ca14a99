"""Chat messages as OpenAI's clients send them."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from model.text.task_prompts import Message
from server.api.request_model import Ignored, Refused, RequestModel, Text, only


class TextPart(RequestModel):
    type: Literal["text"]
    text: Text


def _as_parts(content: Any) -> Any:
    if not isinstance(content, str | list):
        raise PydanticCustomError("string_or_parts", "a string, or a list of text parts, is expected")
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


Content = Annotated[list[TextPart], BeforeValidator(_as_parts), Field(min_length=1, max_length=64)]


class ChatMessage(RequestModel):
    """One turn. `content` is a string or a list of text parts; images and tools are not served."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: Ignored = None
    refusal: Refused = None
    audio: Refused = None
    annotations: Annotated[Any, only([])] = None
    tool_calls: Annotated[Any, only([])] = None
    function_call: Refused = None


Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=1024)]


def template_messages(messages: Sequence[ChatMessage]) -> list[Message]:
    """The messages as the chat template takes them: "developer" is the newer name of "system"."""
    return [
        {
            "role": "system" if message.role == "developer" else message.role,
            "content": "".join(part.text for part in message.content),
        }
        for message in messages
    ]
