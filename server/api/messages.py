"""Chat messages as OpenAI's clients send them."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo
from pydantic_core import PydanticCustomError

from model.text.chat_template import RenderOptions
from server.api.bounded_json import BoundedObject
from server.api.request_model import FirstErrorOnly, Text, WholeNumber, WithExtras, as_text_parts, refused_unless
from server.api.tools import CallId, MessageToolCalls, ToolFields
from server.chat import request
from server.errors import InvalidRequestError

_NO_FUNCTIONS = "it is tools that are served here: send tool_calls, and their results with the role tool"


def _text_only(kind: Any) -> Any:
    if isinstance(kind, str) and kind != "text":
        raise PydanticCustomError(
            "unsupported_parameter", "only parts of type text are served: images, sound and files are not"
        )
    return kind


def _served_role(role: Any) -> Any:
    if role == "function":
        raise PydanticCustomError("unsupported_parameter", _NO_FUNCTIONS)
    return role


_REFUSED = Field(description="Refused unless null or empty.")


class MessagePart(WithExtras):
    type: Annotated[Literal["text"], BeforeValidator(_text_only)]
    text: Text


def _as_parts(content: Any, info: ValidationInfo) -> Any:
    """An assistant's turn may have no content: a turn of tool calls, or an empty answer."""
    return as_text_parts("" if content in (None, []) and info.data.get("role") == "assistant" else content)


Content = Annotated[list[MessagePart], FirstErrorOnly, BeforeValidator(_as_parts), Field(min_length=1, max_length=64)]


class ConversationMessage(WithExtras):
    """One turn. `content` is a string or a list of text parts; that of an assistant may be null."""

    role: Annotated[Literal["system", "developer", "user", "assistant", "tool"], BeforeValidator(_served_role)]
    content: Content = Field(
        default=None,
        validate_default=True,
        description="A string or a list of text parts; may be null for an assistant.",
    )
    tool_calls: MessageToolCalls | None = None
    tool_call_id: Annotated[CallId, Field(description="Which call a tool's message answers.")] | None = None
    reasoning_content: Annotated[Text, Field(description="Of an assistant.")] | None = None
    reasoning: Annotated[Text, Field(description="Another name of reasoning_content.")] | None = None
    name: Annotated[Any, Field(description="Ignored.")] = None
    refusal: Annotated[Any, refused_unless("refusals are not rendered here: send the text as content"), _REFUSED] = None
    audio: Annotated[Any, refused_unless("sound is not served here: send text"), _REFUSED] = None
    images: Annotated[Any, refused_unless("images are not served here: send text", []), _REFUSED] = None
    annotations: Annotated[Any, Field(description="Ignored.")] = None
    function_call: Annotated[Any, refused_unless(_NO_FUNCTIONS), _REFUSED] = None


TemplateVariables = Annotated[
    BoundedObject, Field(max_length=64, description="Variables of the chat template, such as enable_thinking.")
]
Messages = Annotated[list[ConversationMessage], FirstErrorOnly, Field(min_length=1, max_length=1024)]


def chat_messages(messages: Sequence[ConversationMessage]) -> tuple[request.ChatMessage, ...]:
    """Parts are joined; a developer's message is a system message of these models."""
    return tuple(
        request.ChatMessage(
            role="system" if message.role == "developer" else message.role,
            content="".join(part.text for part in message.content),
            reasoning=message.reasoning_content or message.reasoning,
            tool_calls=tuple(call.call() for call in message.tool_calls or ()),
            tool_call_id=message.tool_call_id,
        )
        for message in messages
    )


def ignored_message_fields(messages: Sequence[ConversationMessage]) -> Iterator[str]:
    """The paths of fields that were ignored in messages and their parts."""
    for index, message in enumerate(messages):
        yield from message.ignored_fields(f"messages.{index}")
        for number, part in enumerate(message.content):
            yield from part.ignored_fields(f"messages.{index}.content.{number}")


class ThinkingSwitch(WithExtras):
    """How others write `enable_thinking` and `thinking_token_budget`: `{"type": "enabled", "budget_tokens": 500}`."""

    type: Literal["enabled", "disabled", "auto", "adaptive"] = "auto"
    budget_tokens: Annotated[int, Field(ge=0, le=1_000_000), WholeNumber] | None = None

    @property
    def is_enabled(self) -> bool | None:
        return {"enabled": True, "disabled": False}.get(self.type)


_NO_SWITCH = ThinkingSwitch()


class ChatFields(ToolFields):
    """A conversation and how it is rendered."""

    messages: Messages | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: Annotated[
        bool, Field(description="The answer goes on with the last message, which is an assistant's.")
    ] = False
    chat_template_kwargs: TemplateVariables | None = None
    reasoning_effort: Annotated[str, Field(max_length=64, description="A variable of the chat template.")] | None = None
    enable_thinking: Annotated[bool, Field(description="A variable of the chat template.")] | None = None
    thinking: ThinkingSwitch | None = None
    thinking_token_budget: (
        Annotated[
            int, Field(ge=-1, le=1_000_000, description="Thinking ends after that many tokens; -1: never."), WholeNumber
        ]
        | None
    ) = None

    def chat_request(self, cache_salt: str | None = None) -> request.ChatRequest:
        """Raises InvalidRequestError if fields contradict each other."""
        return request.ChatRequest(
            chat_messages(self.messages or ()),
            tools=self.chat_tools(),
            tool_choice=self.chat_tool_choice(),
            parallel_tool_calls=self.parallel_tool_calls is not False,
            thinking=self._thinking(),
            render=self._render_options(),
            cache_salt=cache_salt,
        )

    def _thinking(self) -> request.Thinking:
        """An effort of "none" switches thinking off, in templates that can."""
        switch = self.thinking or _NO_SWITCH
        budget = switch.budget_tokens if self.thinking_token_budget is None else self.thinking_token_budget
        is_enabled = switch.is_enabled if self.enable_thinking is None else self.enable_thinking
        if is_enabled is None and self.reasoning_effort == "none":
            is_enabled = False
        return request.Thinking(is_enabled, None if budget == -1 else budget, self.reasoning_effort)

    def _render_options(self) -> RenderOptions:
        if self.continue_final_message and self.add_generation_prompt:
            raise InvalidRequestError(
                "continue_final_message and add_generation_prompt exclude each other.", param="continue_final_message"
            )
        prompted = self.add_generation_prompt is not False and not self.continue_final_message
        return RenderOptions(prompted, self.continue_final_message, self.chat_template_kwargs or {})
