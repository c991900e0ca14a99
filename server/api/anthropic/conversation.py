"""What /v1/messages and /v1/messages/count_tokens share: a conversation with its tools, as a ChatRequest."""

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from model.text.chat_template import RenderOptions
from server.api.anthropic.content import (
    HARMLESS,
    InputMessage,
    InputMessages,
    TextBlock,
    TextBlocks,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    ignored_message_fields,
    joined,
)
from server.api.bounded_json import BoundedObject
from server.api.request_model import FirstErrorOnly, ModelName, RequestBody, Text, WholeNumber, WithExtras
from server.api.sampling import MAX_TOKENS
from server.api.tools import MAX_TOOLS, FunctionName
from server.chat.request import ChatMessage, ChatRequest, Thinking, Tool, ToolCall, ToolChoice, ToolMode
from server.errors import InvalidRequestError
from server.generation.grammar import JsonSchemaGrammar

BILLING = "x-anthropic-billing-header:"  # a system block of Claude Code that is another one in each request


def _custom_only(kind: Any) -> Any:
    if isinstance(kind, str) and kind != "custom":
        raise InvalidRequestError(
            f"tools: {kind[:64]} is not served; these are: tools of your own, with an input_schema.", param="tools"
        )
    return kind


class ToolDefinition(WithExtras):
    """`input_schema` is a JSON schema of an object."""

    type: Annotated[Literal["custom"], BeforeValidator(_custom_only)] | None = None
    name: FunctionName
    description: Text = ""
    input_schema: BoundedObject
    strict: bool = False

    def tool(self) -> Tool:
        return Tool(self.name, self.description, self.input_schema, self.strict)


class ToolChoiceField(WithExtras):
    """`any`: at least one call; `tool`: a call of the tool with that name."""

    type: Literal["auto", "any", "tool", "none"]
    name: FunctionName | None = None
    disable_parallel_tool_use: bool = False


class ThinkingField(WithExtras):
    """`adaptive`: as the chat template has it."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS), WholeNumber] | None = None


class OutputFormat(WithExtras):
    type: Literal["json_schema"]
    schema_: BoundedObject = Field(alias="schema")


class OutputConfig(WithExtras):
    effort: Annotated[str, Field(max_length=64, description="A variable of the chat template.")] | None = None
    format: OutputFormat | None = None


class ConversationFields(RequestBody):
    model: ModelName | None = None
    messages: InputMessages
    system: TextBlocks | None = None
    tools: Annotated[list[ToolDefinition], FirstErrorOnly, Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoiceField | None = None
    thinking: ThinkingField | None = None
    output_config: OutputConfig | None = None

    @property
    def ignored_fields(self) -> tuple[str, ...]:
        parts = {"tool_choice": self.tool_choice, "thinking": self.thinking, "output_config": self.output_config}
        named = (path for name, part in parts.items() if part is not None for path in part.ignored_fields(name))
        tools = (
            path
            for index, tool in enumerate(self.tools or ())
            for path in tool.ignored_fields(f"tools.{index}")
            if path.rpartition(".")[2] not in HARMLESS
        )
        return (*super().ignored_fields, *named, *tools, *ignored_message_fields(self.messages))

    def chat_request(self) -> ChatRequest:
        """Raises InvalidRequestError for a tool choice that the tools do not have."""
        messages = [*self._system(), *(turn for message in self.messages for turn in _turns(message))]
        choice, output = self.tool_choice, self.output_config or OutputConfig()
        return ChatRequest(
            messages,
            tools=tuple(definition.tool() for definition in self.tools or ()),
            tool_choice=self._tool_choice(),
            parallel_tool_calls=choice is None or not choice.disable_parallel_tool_use,
            response_grammar=JsonSchemaGrammar("output_config.format.schema", output.format.schema_)
            if output.format
            else None,
            thinking=self._thinking(output.effort),
            render=_render_options(messages),
        )

    def _system(self) -> Iterator[ChatMessage]:
        blocks = [block for block in self.system or () if not block.text.startswith(BILLING)]
        if blocks:
            yield ChatMessage("system", joined(blocks, "\n"))

    def _tool_choice(self) -> ToolChoice:
        choice = self.tool_choice
        if choice is None or choice.type in ("auto", "none"):
            return ToolChoice(ToolMode(choice.type) if choice else ToolMode.AUTO)
        if not self.tools:
            raise InvalidRequestError(f"tool_choice: {choice.type} needs tools.", param="tool_choice")
        if choice.type == "any":
            return ToolChoice(ToolMode.REQUIRED)
        if choice.name not in {tool.name for tool in self.tools}:
            raise InvalidRequestError(f"tool_choice.name: {choice.name} is not in tools.", param="tool_choice.name")
        return ToolChoice(ToolMode.NAMED, choice.name)

    def _thinking(self, effort: str | None) -> Thinking:
        if self.thinking is None or self.thinking.type in ("adaptive", "between_tools"):
            return Thinking(effort=effort)
        return Thinking(self.thinking.type == "enabled", self.thinking.budget_tokens, effort)


def _render_options(messages: Sequence[ChatMessage]) -> RenderOptions:
    """The answer goes on with a last message of the assistant."""
    last = messages[-1] if messages else None
    continues = last is not None and last.role == "assistant" and bool(last.content) and not last.tool_calls
    return RenderOptions(add_generation_prompt=not continues, continue_final_message=continues)


def _turns(message: InputMessage) -> Iterator[ChatMessage]:
    """The messages that one of Anthropic's makes: results of tools are messages of their own."""
    if message.role == "assistant":
        yield _assistant(message)
        return
    texts: list[TextBlock] = []
    for block in message.content:
        if isinstance(block, TextBlock):
            texts.append(block)
        elif isinstance(block, ToolResultBlock):
            if texts:
                yield ChatMessage(message.role, joined(texts))
                texts = []
            yield ChatMessage("tool", joined(block.content), tool_call_id=block.tool_use_id)
    if texts or not message.content:
        yield ChatMessage(message.role, joined(texts))


def _assistant(message: InputMessage) -> ChatMessage:
    blocks = message.content
    thinking = "".join(block.thinking for block in blocks if isinstance(block, ThinkingBlock))
    calls = tuple(
        ToolCall(block.id, block.name, json.dumps(block.input, ensure_ascii=False))
        for block in blocks
        if isinstance(block, ToolUseBlock)
    )
    content = joined([block for block in blocks if isinstance(block, TextBlock)])
    return ChatMessage("assistant", content, reasoning=thinking or None, tool_calls=calls)
