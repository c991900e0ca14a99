"""What the bodies of Ollama's API share: options, formats, thinking, and the tools and messages of a chat."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator
from pydantic_core import PydanticCustomError

from server.api.bounded_json import BoundedObject
from server.api.request_model import FirstErrorOnly, ModelName, RequestBody, Text, WithExtras, refused_unless
from server.api.sampling import NumLogprobs, SamplingFields
from server.api.tools import CallId, MessageToolCalls, ToolDefinitions
from server.chat.request import ChatMessage, Thinking, ToolCall
from server.errors import InvalidRequestError
from server.generation.grammar import AnswerGrammar, JsonSchemaGrammar

LATEST = ":latest"  # what Ollama's programs add to a name without a tag


class Options(SamplingFields):
    """Sampling options. Those that Ollama needs to load a model, such as num_ctx, are ignored with a warning."""

    @field_validator("max_tokens", mode="before")
    @classmethod
    def _fill_the_context(cls, value: Any) -> Any:
        return -1 if value == -2 else value


def _effort(value: Any) -> Any:
    if isinstance(value, str) and value not in ("low", "medium", "high", "max"):
        raise PydanticCustomError("think", "give true, false, low, medium, high or max")
    return value


def _format(value: Any) -> Any:
    if isinstance(value, str) and value not in ("", "json"):
        raise PydanticCustomError("format", "give json, or a JSON schema as an object")
    return value


Think = Annotated[
    Annotated[bool, Tag("[boolean]")] | Annotated[Literal["low", "medium", "high", "max"], Tag("[effort]")],
    Discriminator(lambda value: "[effort]" if isinstance(value, str) else "[boolean]"),
    BeforeValidator(_effort),
]
Format = Annotated[
    Annotated[Literal["", "json"], Tag("[name]")] | Annotated[BoundedObject, Tag("[schema]")],
    Discriminator(lambda value: "[schema]" if isinstance(value, dict) else "[name]"),
    BeforeValidator(_format),
    Field(description="json, or a JSON schema that the answer follows."),
]
KeepAlive = Annotated[
    Annotated[float, Field(ge=-1e12, le=1e12), Tag("[seconds]")] | Annotated[str, Field(max_length=64), Tag("[text]")],
    Discriminator(lambda value: "[text]" if isinstance(value, str) else "[seconds]"),
    Field(description="Ignored: the model stays loaded."),
]


class OllamaBody(RequestBody):
    model: ModelName | None = None
    options: Options | None = None

    @field_validator("model")
    @classmethod
    def _without_tag(cls, model: str | None) -> str | None:
        return model.removesuffix(LATEST) if model else None

    @field_validator("options", mode="wrap")
    @classmethod
    def _name_the_option(cls, value: Any, handler: Any) -> Any:
        try:
            return handler(value)
        except InvalidRequestError as error:
            raise InvalidRequestError(f"options: {error.message}", param=f"options.{error.param}") from None

    @property
    def ignored_fields(self) -> tuple[str, ...]:
        options = self.options.ignored_fields if self.options else ()
        return (*super().ignored_fields, *(f"options.{name}" for name in options))

    @property
    def unknown_fields(self) -> tuple[str, ...]:
        options = self.options.unknown_fields if self.options else ()
        return (*super().unknown_fields, *(f"options.{name}" for name in options))


class GenerationBody(OllamaBody):
    stream: bool = True
    format: Format | None = None
    think: Annotated[Think, Field(description="For chat templates that can switch it.")] | None = None
    logprobs: bool | None = None
    top_logprobs: NumLogprobs | None = None
    keep_alive: KeepAlive | None = None

    @property
    def ignored_fields(self) -> tuple[str, ...]:
        kept = () if self.keep_alive is None else ("keep_alive",)
        return (*super().ignored_fields, *kept)

    @property
    def reason_without_prompt(self) -> str:
        """What a request without a prompt asks of Ollama: to unload the model if it is kept for no time, such as 0s."""
        digits = {character for character in str(self.keep_alive) if character.isdigit()}
        return "unload" if digits == {"0"} else "load"

    @property
    def thinking(self) -> Thinking:
        if isinstance(self.think, str):
            return Thinking(enabled=True, effort=self.think)
        return Thinking(enabled=self.think)

    @property
    def grammar(self) -> AnswerGrammar | None:
        """What the answer is to follow; None: any text."""
        if not self.format:
            return None
        return JsonSchemaGrammar("format", {"type": "object"} if isinstance(self.format, str) else self.format)

    @property
    def num_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


class Message(WithExtras):
    role: Literal["system", "user", "assistant", "tool"]
    content: Text | None = None
    thinking: Text | None = None
    tool_calls: MessageToolCalls | None = None
    tool_name: Annotated[str, Field(max_length=128, description="The tool whose result this is.")] | None = None
    tool_call_id: CallId | None = None
    images: Annotated[Any, refused_unless("images are not served here: send text", [])] = None


Messages = Annotated[list[Message], FirstErrorOnly, Field(max_length=1024)]
Tools = ToolDefinitions


def chat_messages(messages: Sequence[Message]) -> tuple[ChatMessage, ...]:
    """Calls get numbers as ids: Ollama's messages have none. A result belongs to the next call of its tool."""
    found: list[ChatMessage] = []
    open_calls = _OpenCalls()
    for message in messages:
        calls = tuple(
            ToolCall(call.id or f"call_{len(found)}_{number}", call.function.name, call.function.arguments)
            for number, call in enumerate(message.tool_calls or ())
        )
        open_calls.add(calls)
        answered = open_calls.take(message.tool_call_id, message.tool_name) if message.role == "tool" else None
        found.append(
            ChatMessage(
                message.role,
                message.content or "",
                reasoning=message.thinking,
                tool_calls=calls,
                tool_call_id=answered.id if answered else message.tool_call_id,
                name=message.tool_name,
            )
        )
    return tuple(found)


class _OpenCalls:
    """The calls that have no result yet, in their order."""

    def __init__(self) -> None:
        self._by_id: dict[str, ToolCall] = {}
        self._by_name: defaultdict[str, dict[str, ToolCall]] = defaultdict(dict)

    def add(self, calls: Sequence[ToolCall]) -> None:
        for call in calls:
            self._by_id[call.id] = self._by_name[call.name][call.id] = call

    def take(self, call_id: str | None, name: str | None) -> ToolCall | None:
        """The call that a result answers: by its id, else by the tool's name, else the first."""
        if call_id is not None:
            call = self._by_id.get(call_id)
        else:
            named = self._by_name.get(name) if name is not None else None
            call = next(iter((named or self._by_id).values()), None)
        if call is not None:
            self._by_id.pop(call.id, None)
            self._by_name[call.name].pop(call.id, None)
        return call


def ignored_message_fields(messages: Sequence[Message]) -> Iterator[str]:
    for index, message in enumerate(messages):
        yield from message.ignored_fields(f"messages.{index}")
