"""Messages to token ids, through the jinja chat template of a checkpoint."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from model.files import Directory, read_object_if_any
from model.text.control_tokens import ControlTokens, Guard
from model.text.task_prompts import Message, TaggedText
from model.text.template_sandbox.bounded_template import BoundedTemplate
from model.text.template_sandbox.clock import Clock
from model.text.tokenizer import TokenizedText, Tokenizer
from model.text.tokenizer_files import named_tokens

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
TOOL_USE_NAME = "additional_chat_templates/tool_use.jinja"
MAX_TURN_BOUNDARIES = 8  # each costs one more rendering; only the last turns of a conversation are likely to come back
_NO_TOOLS: Mapping[str, Any] = {"tools": None}
_NOT_CONTINUED = "only a last message of the assistant, with text in it, can be continued"
_PROBES: tuple[list[Message], ...] = (
    [{"role": "user", "content": "a"}],
    [{"role": "system", "content": "a"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}],
)


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """The ids of a conversation.

    `boundaries` are the lengths of its prefixes that are worth caching, ascending: the end of the system message and of
    the last turns. Special tokens in `text` are the template's: in those of messages another character stands for one
    (see Guard).
    """

    token_ids: tuple[int, ...]
    boundaries: tuple[int, ...]
    text: str = ""


@dataclass(frozen=True, slots=True)
class KnownPrefix:
    """The token ids of the first `num_characters` of a rendered text, and their boundaries, as they were before."""

    num_characters: int
    token_ids: tuple[int, ...]
    boundaries: tuple[int, ...]


def nothing_known(text: str) -> KnownPrefix | None:
    return None


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """How a conversation is rendered.

    `add_generation_prompt`: write the beginning of the assistant's next turn at the end.
    `continue_final_message`: leave the last message open, so that the model continues it.
    `variables`: further variables of the template, such as enable_thinking.
    `tools`: the functions that the model may call, as JSON schemas: `{"type": "function", "function": {...}}`.
    """

    add_generation_prompt: bool = True
    continue_final_message: bool = False
    variables: Mapping[str, Any] = field(default_factory=dict)
    tools: Sequence[dict[str, Any]] = ()


DEFAULT_RENDER_OPTIONS = RenderOptions()
THINKING_SWITCHES: Mapping[str, tuple[Any, Any]] = {  # the variables that turn thinking off and on, and their values
    "enable_thinking": (False, True),
    "thinking_mode": ("disabled", "enabled"),  # of MiniMax M3
}


def thinking_switch(*, enabled: bool) -> dict[str, Any]:
    """The variables that turn thinking on, or off."""
    return {name: values[enabled] for name, values in THINKING_SWITCHES.items()}


class ChatTemplate:
    """The chat template of a checkpoint.

    Control tokens can come from the template and from the tags of a `TaggedText`, never from the texts of messages (see
    control_tokens.py). In an earlier answer of the model, only special tokens are hidden: it may have a `<think>`.
    """

    def __init__(
        self,
        source: str,
        named: Mapping[str, str] | None = None,
        response_template: Any = None,
        tool_use: str | None = None,
    ) -> None:
        """`named` are special tokens by the name that templates use. ValueError where `source` is not valid jinja.

        `response_template` says how answers are written, if the checkpoint does (see response_template.py). `tool_use`
        is the template of conversations with tools, if it is another one.
        """
        self.response_template = response_template
        self._source, self._template = source, BoundedTemplate(source)
        self._all_sources = source if tool_use is None else f"{source}\n{tool_use}"
        self._template_with_tools = self._template if tool_use is None else BoundedTemplate(tool_use)
        self._variables = {"bos_token": "", "eos_token": "", **(named or {})}
        self._control_tokens: WeakKeyDictionary[Tokenizer, ControlTokens] = WeakKeyDictionary()

    @classmethod
    def load(cls, directory: Directory) -> "ChatTemplate | None":
        """Read the template of a checkpoint; None where it has none.

        It is in chat_template.jinja, tokenizer_config.json or chat_template.json, whichever comes first. Of several,
        "tool_use" is for conversations with tools, as in transformers, vLLM and llama.cpp, and "default" for all
        others. ValueError where one of them is not valid, or none is called "default".
        """
        sources = _template_sources(directory)
        if sources is None:
            return None
        settings = read_object_if_any(directory / "tokenizer_config.json")
        named = named_tokens(directory)
        return cls(sources["default"], named, settings.get("response_template"), sources.get("tool_use"))

    @property
    def source(self) -> str:
        """The template of conversations without tools."""
        return self._source

    @property
    def all_sources(self) -> str:
        """The same, and that of conversations with tools where it is another one."""
        return self._all_sources

    @property
    def bos_token(self) -> str:
        """The text of the token that begins a sequence; empty if there is none."""
        return self._variables["bos_token"]

    @property
    def eos_token(self) -> str:
        return self._variables["eos_token"]

    def uses(self, variable: str) -> bool:
        """Whether a variable is named in the template."""
        return variable in self._all_sources

    def render(
        self, messages: Sequence[Message], add_generation_prompt: bool, tools: Sequence[dict[str, Any]] = ()
    ) -> str:
        """Return the text of a conversation for a person to read: texts and special tokens look the same in it."""
        copies = [_copy(message, _unchanged) for message in messages]
        return self._render(copies, add_generation_prompt, {"tools": list(tools) or None}, Clock())

    def render_ids(
        self,
        messages: Sequence[Message],
        tokenizer: Tokenizer,
        options: RenderOptions = DEFAULT_RENDER_OPTIONS,
        known: Callable[[str], KnownPrefix | None] = nothing_known,
    ) -> RenderedPrompt:
        """Return the token ids of a conversation.

        `known` may have the ids of a part of the text that were in a cache already; they are used as they are.
        ValueError where the template refuses the messages, fails, or exceeds its limits, and where the last message
        cannot be continued.
        """
        texts = _texts([*messages, dict(options.variables), *options.tools])
        clock, guard = Clock(), Guard(self.control_tokens(tokenizer), texts)

        def hide(text: str, role: str) -> str:
            return guard.hide(text, special_only=role == "assistant")

        guarded = [_copy(message, hide) for message in messages]
        tools = [_map_fields(tool, guard.hide) for tool in options.tools]
        variables = {**_map_fields(options.variables, guard.hide), "tools": tools or None}
        mark = guard.free_mark() if options.continue_final_message else ""
        marked = _with_mark(guarded, mark) if mark else guarded
        text = self._render(marked, options.add_generation_prompt, variables, clock)
        if mark:
            text = _before_mark(text, mark)
        found = known(text)
        tokens = None if found is None else _tokenize_after(found, text, guard)
        boundaries = set(found.boundaries) if found is not None and tokens is not None else set()
        tokens = guard.tokenize(text) if tokens is None else tokens
        for prefix in _prefixes(guarded):
            boundary = self._boundary(prefix, variables, text, tokens, guard, clock)
            if boundary is not None:
                boundaries.add(boundary)
        return RenderedPrompt(tuple(tokens.ids), tuple(sorted(boundaries)), text)

    def control_tokens(self, tokenizer: Tokenizer) -> ControlTokens:
        """The control tokens under this template, found once per tokenizer."""
        found = self._control_tokens.get(tokenizer)
        if found is None:
            found = ControlTokens(tokenizer, self._all_sources, frozenset(self._written_tokens(tokenizer)))
            self._control_tokens[tokenizer] = found
        return found

    def _written_tokens(self, tokenizer: Tokenizer) -> Iterator[str]:
        """The added tokens that the template writes: it names them, or they are in a conversation that it renders.

        White space and words are left out: templates have them as ordinary text.
        """
        rendered = {token_id for messages in _PROBES for token_id in self._rendered_ids(messages, tokenizer)}
        literals = (*self._template.literals, *self._template_with_tools.literals)
        for token, token_id in tokenizer.added_tokens.items():
            is_mark = not token.isspace() and not token.isalnum()
            if is_mark and (token_id in rendered or any(token in text for text in literals)):
                yield token

    def _rendered_ids(self, messages: list[Message], tokenizer: Tokenizer) -> list[int]:
        try:
            return tokenizer.encode(self._render(messages, True, _NO_TOOLS, Clock()), allow_special=True)
        except ValueError:
            return []  # templates may refuse some conversations

    def _boundary(
        self,
        prefix: list[Message],
        variables: Mapping[str, Any],
        text: str,
        tokens: TokenizedText,
        guard: Guard,
        clock: Clock,
    ) -> int | None:
        """Return the number of tokens of the messages `prefix`, None where they are no token prefix of the whole."""
        try:
            start = self._render(prefix, False, variables, clock)
        except ValueError:
            return None  # templates may refuse a part of a conversation, such as a system message alone
        if not start or not text.startswith(start):
            return None
        count = bisect_left(tokens.starts, len(start))
        if count == 0 or tokens.starts[count - 1] < 0 or tokens.ends[count - 1] > len(start):
            return None
        around = tokens.ids[count - 1 : count + 1]
        is_certain = count == len(tokens.ids) or any(guard.is_control(token_id) for token_id in around)
        return count if is_certain or guard.tokenize(start).ids == tokens.ids[:count] else None

    def _render(
        self, messages: list[Message], add_generation_prompt: bool, variables: Mapping[str, Any], clock: Clock
    ) -> str:
        own = {"messages": messages, "add_generation_prompt": add_generation_prompt}
        template = self._template_with_tools if variables.get("tools") else self._template
        return template.render({**self._variables, **variables, **own}, clock)


class UnusableChatTemplate:
    """Takes the place of a template that cannot be used: every conversation is refused with the reason."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    source = all_sources = bos_token = eos_token = ""
    response_template: Any = None

    def uses(self, variable: str) -> bool:
        return False

    def render_ids(
        self,
        messages: Sequence[Message],
        tokenizer: Tokenizer,
        options: RenderOptions = DEFAULT_RENDER_OPTIONS,
        known: Callable[[str], KnownPrefix | None] = nothing_known,
    ) -> RenderedPrompt:
        raise ValueError(self._reason)


def _tokenize_after(known: KnownPrefix, text: str, guard: Guard) -> TokenizedText | None:
    """The tokens of a text whose beginning is known; None where no control token separates it from the rest.

    A place before the beginning of the text marks the tokens that are known.
    """
    rest = guard.tokenize(text[known.num_characters :])
    if not rest.ids or rest.starts[0] > 0 or not guard.is_control(rest.ids[0]):
        return None
    count = len(known.token_ids)
    starts, ends = ([place + known.num_characters for place in places] for places in (rest.starts, rest.ends))
    return TokenizedText(
        [*known.token_ids, *rest.ids], [*[-1] * count, *starts], [*[known.num_characters] * count, *ends]
    )


def _template_sources(directory: Directory) -> dict[str, str] | None:
    """The templates of a checkpoint by name."""
    tool_use = directory / TOOL_USE_NAME
    more = {"tool_use": tool_use.read_text(encoding="utf-8")} if tool_use.is_file() else {}
    path = directory / "chat_template.jinja"
    if path.is_file():
        return {"default": path.read_text(encoding="utf-8"), **more}
    for name in ("tokenizer_config.json", "chat_template.json"):
        found = read_object_if_any(directory / name).get("chat_template")
        if found is not None:
            return _named(found, name) | more
    return None


def _named(found: Any, file_name: str) -> dict[str, str]:
    """The one template, which is called "default", or several: an object, or a list of names and templates."""
    if isinstance(found, list):
        found = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
    sources = found if isinstance(found, dict) else {"default": found}
    if "default" not in sources:
        names = ", ".join(map(str, sources)) or "no template at all"
        raise ValueError(f"chat_template in {file_name} has {names}, and none that is called default")
    used = {name: source for name, source in sources.items() if name in ("default", "tool_use")}
    for source in used.values():
        if not isinstance(source, str):
            raise ValueError(f"chat_template in {file_name} is {type(source).__name__} where a text is expected")
    return used


def _prefixes(messages: list[Message]) -> Iterator[list[Message]]:
    """Yield the prefixes of a conversation that may come again: up to the system message and each of the last turns.

    Without a system message the first one is empty: a template may have inserted a system message of its own.
    """
    has_system = bool(messages) and messages[0]["role"] == "system"
    first_turn = int(has_system) + 1
    yield messages[: int(has_system)]
    for end in range(max(first_turn, len(messages) + 1 - MAX_TURN_BOUNDARIES), len(messages) + 1):
        yield messages[:end]


def _with_mark(messages: list[Message], mark: str) -> list[Message]:
    """The messages with a mark after the text of the last one, which the model is to continue."""
    *before, last = messages
    if last["role"] != "assistant" or not isinstance(last["content"], str) or not last["content"].strip():
        raise ValueError(_NOT_CONTINUED)
    return [*before, {**last, "content": last["content"] + mark}]


def _before_mark(text: str, mark: str) -> str:
    """A rendered text up to the last mark, without the white space before it, as transformers does."""
    before, found, _ = text.rpartition(mark)
    if not found:
        raise ValueError(_NOT_CONTINUED)
    return before.replace(mark, "").rstrip()


def _checked_role(message: Message) -> str:
    role: str = message["role"]
    if role not in ROLES:  # templates build special tokens from it, such as "<|" + role + "|>"
        raise ValueError(f"role {role!r} is not known: use one of {', '.join(ROLES)}")
    return role


def _copy(message: Message, change: Callable[[str, str], str]) -> Message:
    """A copy of a message with every text in it changed by `change(text, role)`."""
    role = _checked_role(message)
    return {**_map_fields(message, lambda text: change(text, role)), "role": role}


def _unchanged(text: str, role: str) -> str:
    return text


def _map_fields(fields: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """A copy with every text in the values changed. The names stay: the template looks the fields up by them."""
    return {name: _map_texts(value, change) for name, value in fields.items()}


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """A copy of a value with every text in it changed, names of objects too; tags stay as they are."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, TaggedText):
        return "".join(value.tags) + change(value.text)
    if isinstance(value, dict):
        return {_map_texts(name, change): _map_texts(entry, change) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_map_texts(entry, change) for entry in value]
    return value


def _texts(messages: Sequence[Message]) -> Iterator[str]:
    """All texts of the messages."""
    found: list[str] = []

    def collect(text: str) -> str:
        found.append(text)
        return text

    for message in messages:
        _map_texts(message, collect)
    yield from found
