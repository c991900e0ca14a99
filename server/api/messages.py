"""Chat messages as OpenAI's clients send them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo
from pydantic_core import PydanticCustomError

from model.text.chat_template import RenderOptions
from model.text.task_prompts import Message
from server.api.request_model import FirstErrorOnly, RequestModel, Text
from server.errors import InvalidRequestError
from server.generation.prompt import Prompt
from server.generation.service import GenerationService

MAX_DEPTH = 32  # of lists and objects in the variables of a chat template
_NO_TOOLS = "tools are not served here: leave out their calls and results"


def _text_only(kind: Any) -> Any:
    if isinstance(kind, str) and kind != "text":
        raise PydanticCustomError(
            "unsupported_parameter", "only parts of type text are served: images, sound and files are not"
        )
    return kind


def _served_role(role: Any) -> Any:
    if role in ("tool", "function"):
        raise PydanticCustomError("unsupported_parameter", _NO_TOOLS)
    return role


def _only(message: str, *harmless: object) -> AfterValidator:
    """Null and the `harmless` values pass; all others are refused with the message."""

    def check(value: Any) -> None:
        if value is not None and not any(value == allowed for allowed in harmless):
            raise PydanticCustomError("unsupported_parameter", message)

    return AfterValidator(check)


_REFUSED = Field(description="Refused unless null or empty.")


class WithExtras(RequestModel):
    """A part of a body in which fields of other servers are ignored and named in the warnings."""

    model_config = ConfigDict(extra="allow")

    def ignored_fields(self, path: str) -> Iterator[str]:
        return (f"{path}.{name}" for name, value in (self.model_extra or {}).items() if value is not None)


class TextPart(WithExtras):
    type: Annotated[Literal["text"], BeforeValidator(_text_only)]
    text: Text


def _as_parts(content: Any, info: ValidationInfo) -> Any:
    if content in (None, []) and info.data.get("role") == "assistant":
        return [{"type": "text", "text": ""}]  # a turn of tool calls, or an empty answer
    if not isinstance(content, str | list):
        raise PydanticCustomError("string_or_parts", "a string, or a list of text parts, is expected")
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


Content = Annotated[list[TextPart], FirstErrorOnly, BeforeValidator(_as_parts), Field(min_length=1, max_length=64)]


class ChatMessage(WithExtras):
    """One turn. `content` is a string or a list of text parts; that of an assistant may be null."""

    role: Annotated[Literal["system", "developer", "user", "assistant"], BeforeValidator(_served_role)]
    content: Content = Field(
        default=None,
        validate_default=True,
        description="A string or a list of text parts; may be null for an assistant.",
    )
    name: Annotated[Any, Field(description="Ignored.")] = None
    refusal: Annotated[Any, _only("refusals are not rendered here: send the text as content"), _REFUSED] = None
    audio: Annotated[Any, _only("sound is not served here: send text"), _REFUSED] = None
    images: Annotated[Any, _only("images are not served here: send text", []), _REFUSED] = None
    annotations: Annotated[Any, Field(description="Ignored.")] = None
    tool_calls: Annotated[Any, _only(_NO_TOOLS, []), _REFUSED] = None
    function_call: Annotated[Any, _only(_NO_TOOLS), _REFUSED] = None


def _not_too_deep(variables: dict[str, Any]) -> dict[str, Any]:
    """Level by level: rendering works through the levels by recursion, so their number needs a bound."""
    level: list[Any] = [variables]
    for _ in range(MAX_DEPTH):
        level = [part for value in level for part in _parts(value) if isinstance(part, dict | list)]
    if level:
        raise PydanticCustomError("too_deep", f"at most {MAX_DEPTH} lists and objects can be in each other")
    return variables


def _parts(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


TemplateVariables = Annotated[
    dict[str, Any],
    Field(max_length=64, description="Variables of the chat template, such as enable_thinking."),
    AfterValidator(_not_too_deep),
]
Messages = Annotated[list[ChatMessage], FirstErrorOnly, Field(min_length=1, max_length=1024)]


def template_messages(messages: Sequence[ChatMessage]) -> list[Message]:
    """The chat template's form. Parts are joined; a developer's message is a system message of these models."""
    return [
        {
            "role": "system" if message.role == "developer" else message.role,
            "content": "".join(part.text for part in message.content),
        }
        for message in messages
    ]


def ignored_message_fields(messages: Sequence[ChatMessage]) -> Iterator[str]:
    """The paths of fields that were ignored in messages and their parts."""
    for index, message in enumerate(messages):
        yield from message.ignored_fields(f"messages.{index}")
        for number, part in enumerate(message.content):
            yield from part.ignored_fields(f"messages.{index}.content.{number}")


class ChatFields(BaseModel):
    """A conversation and how it is rendered."""

    messages: Messages | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: Annotated[
        bool, Field(description="The answer goes on with the last message, which is an assistant's.")
    ] = False
    chat_template_kwargs: TemplateVariables | None = None
    reasoning_effort: Annotated[str, Field(max_length=64, description="A variable of the chat template.")] | None = None
    enable_thinking: Annotated[bool, Field(description="A variable of the chat template.")] | None = None

    async def chat_prompt(self, service: GenerationService) -> Prompt:
        """Raises InvalidRequestError for what the chat template refuses."""
        messages = service.prompts.chat(template_messages(self.messages or ()))
        return await service.chat_prompt(messages, self._render_options())

    def _render_options(self) -> RenderOptions:
        if self.continue_final_message and self.add_generation_prompt:
            raise InvalidRequestError(
                "continue_final_message and add_generation_prompt exclude each other.", param="continue_final_message"
            )
        named = {"reasoning_effort": self.reasoning_effort, "enable_thinking": self.enable_thinking}
        given = {name: value for name, value in named.items() if value is not None}
        variables = given | (self.chat_template_kwargs or {})
        prompted = self.add_generation_prompt is not False and not self.continue_final_message
        return RenderOptions(prompted, self.continue_final_message, variables)
