"""Messages to token ids through the jinja chat template of a checkpoint, safe against special tokens in messages."""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.files import read_object_if_any
from model.text.task_prompts import Message, TaggedText
from model.text.template_sandbox import BoundedTemplate, Clock
from model.text.tokenizer import TokenizedText, Tokenizer, token_text

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
MAX_TURN_BOUNDARIES = 8  # each costs one more rendering; only the last turns of a conversation are likely to come back
_FIRST_MARK, _LAST_MARK = 0xE000, 0xF8FF  # Unicode's private use area


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """The ids of a conversation. `boundaries` are the lengths of its prefixes that are worth remembering, ascending:
    the end of the system message and of the last turns."""

    token_ids: tuple[int, ...]
    boundaries: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """How a conversation is rendered.

    `add_generation_prompt`: the beginning of the assistant's next turn is written at the end.
    `continue_final_message`: the last message is not ended, so that the model goes on with it.
    `variables`: further variables of the template, such as enable_thinking.
    """

    add_generation_prompt: bool = True
    continue_final_message: bool = False
    variables: Mapping[str, Any] = field(default_factory=dict)


DEFAULT_RENDER_OPTIONS = RenderOptions()


class ChatTemplate:
    """The chat template of a checkpoint.

    Special tokens can come from the template and from the tags of a `TaggedText`, never from message texts. Where a
    text holds the characters of a special token, or begins or ends with a part of one (which the template could make
    whole), one of these characters is replaced by a private-use character that occurs nowhere else before rendering.
    What then reads as a special token in the rendered text is the template's; after it is cut out there, the characters
    are put back and the rest is encoded as text. This is right for every template that copies, trims, splits or
    rearranges texts; only one that deletes characters inside a text could still join the halves of a token.
    """

    def __init__(self, source: str, bos_token: str | None = None, eos_token: str | None = None) -> None:
        """ValueError where `source` is not valid jinja."""
        self._source, self._template = source, BoundedTemplate(source)
        self._variables = {"bos_token": bos_token or "", "eos_token": eos_token or ""}

    @classmethod
    def load(cls, directory: Path) -> "ChatTemplate":
        """Read chat_template.jinja, else the `chat_template` of tokenizer_config.json. ValueError where there is none.

        Where a checkpoint has several templates, the one called "default" is taken.
        """
        config = read_object_if_any(directory / "tokenizer_config.json")
        path = directory / "chat_template.jinja"
        source = path.read_text(encoding="utf-8") if path.is_file() else config.get("chat_template")
        if isinstance(source, list):
            source = next((entry["template"] for entry in source if entry["name"] == "default"), None)
        if source is None:
            raise ValueError(f"{directory} has no chat template: use the model for plain completions instead")
        return cls(source, token_text(config.get("bos_token")), token_text(config.get("eos_token")))

    @property
    def source(self) -> str:
        return self._source

    @property
    def bos_token(self) -> str:
        """The text of the token that begins a sequence; empty if there is none."""
        return self._variables["bos_token"]

    @property
    def eos_token(self) -> str:
        return self._variables["eos_token"]

    def uses(self, variable: str) -> bool:
        """Whether a variable is named in the template."""
        return variable in self._source

    def render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        """Return the text of a conversation, to be read by a person: texts and special tokens look the same in it."""
        return self._render([_copy(message, str) for message in messages], add_generation_prompt, {}, Clock())

    def render_ids(
        self, messages: Sequence[Message], tokenizer: Tokenizer, options: RenderOptions = DEFAULT_RENDER_OPTIONS
    ) -> RenderedPrompt:
        """Return the token ids of a conversation.

        ValueError if the template refuses the messages, fails, or exceeds its limits, and if the last message cannot be
        continued.
        """
        clock, guard = Clock(), _Guard([*messages, dict(options.variables)], self._source, tokenizer)
        guarded = [_copy(message, guard.hide) for message in messages]
        variables = _map_texts(dict(options.variables), guard.hide)
        text = self._render(guarded, options.add_generation_prompt, variables, clock)
        if options.continue_final_message:
            text = _without_end(text, guarded)
        tokens = guard.tokenize(text)
        boundaries = set()
        for prefix in _prefixes(guarded):
            boundary = self._boundary(prefix, variables, text, tokens, guard, clock)
            if boundary is not None:
                boundaries.add(boundary)
        return RenderedPrompt(tuple(tokens.ids), tuple(sorted(boundaries)))

    def _boundary(
        self,
        prefix: list[Message],
        variables: Mapping[str, Any],
        text: str,
        tokens: TokenizedText,
        guard: "_Guard",
        clock: Clock,
    ) -> int | None:
        """Return how many tokens the messages of `prefix` are, None where they are no token prefix of the whole."""
        try:
            start = self._render(prefix, False, variables, clock)
        except ValueError:
            return None  # templates may refuse a part of a conversation, such as a system message alone
        if not start or not text.startswith(start):
            return None
        count = bisect_left(tokens.starts, len(start))
        if count == 0 or tokens.ends[count - 1] > len(start):
            return None
        around = tokens.ids[count - 1 : count + 1]
        is_certain = count == len(tokens.ids) or any(guard.is_special(token_id) for token_id in around)
        return count if is_certain or guard.tokenize(start).ids == tokens.ids[:count] else None

    def _render(
        self, messages: list[Message], add_generation_prompt: bool, variables: Mapping[str, Any], clock: Clock
    ) -> str:
        own = {"messages": messages, "add_generation_prompt": add_generation_prompt, "tools": None}
        return self._template.render({**self._variables, **variables, **own}, clock)


class _Guard:
    """Hides special tokens inside texts before rendering, and encodes the rendered text. See `ChatTemplate`."""

    def __init__(self, messages: Sequence[Message], template: str, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        tokens = sorted(tokenizer.special_tokens, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, tokens)) or r"(?!)")
        self._starts = re.compile("|".join(map(_start, tokens)) or r"(?!)")
        self._prefixes = {token[:size] for token in tokens for size in range(1, len(token))}
        self._suffixes = {token[size:] for token in tokens for size in range(1, len(token))}
        self._longest = max(map(len, tokens), default=0)
        self._marks: dict[str, str] = {}  # character -> the private-use character that stands for it
        taken = {*template, *"".join(tokens)}.union(*(_characters(message) for message in messages))
        self._free_marks = (chr(code) for code in range(_FIRST_MARK, _LAST_MARK + 1) if chr(code) not in taken)

    def hide(self, text: str) -> str:
        # One pass is enough, overlapping tokens included: no token has a mark in it, so marking cannot make a new one.
        text = self._starts.sub(lambda start: self._mark_of(start[0]), text)
        start, end = len(text) - len(text.lstrip()), len(text.rstrip())
        for size in range(1, min(self._longest, end - start + 1)):
            if text[end - size : end] in self._prefixes:
                text = self._mark(text, end - size)
            if text[start : start + size] in self._suffixes:
                text = self._mark(text, start)
        return text

    def tokenize(self, text: str) -> TokenizedText:
        if not self._marks:
            return self._tokenizer.encode_with_offsets(text, allow_special=True)
        whole, position = TokenizedText([], [], []), 0
        for match in self._special.finditer(text):
            self._append_text(whole, text[position : match.start()], position)
            _append(whole, [self._tokenizer.special_tokens[match[0]]], [match.start()], [match.end()])
            position = match.end()
        self._append_text(whole, text[position:], position)
        return whole

    def is_special(self, token_id: int) -> bool:
        return token_id in self._tokenizer.special_ids

    def _mark(self, text: str, position: int) -> str:
        return text[:position] + self._mark_of(text[position]) + text[position + 1 :]

    def _mark_of(self, character: str) -> str:
        if character not in self._marks:
            mark = next(self._free_marks, None)
            if mark is None:
                raise ValueError("every private-use character of Unicode is in the messages: one is needed here")
            self._marks[character] = mark
        return self._marks[character]

    def _append_text(self, whole: TokenizedText, text: str, position: int) -> None:
        restored = text.translate({ord(mark): character for character, mark in self._marks.items()})
        tokens = self._tokenizer.encode_with_offsets(restored)
        starts, ends = ([position + offset for offset in offsets] for offsets in (tokens.starts, tokens.ends))
        _append(whole, tokens.ids, starts, ends)


def _start(token: str) -> str:
    """Return the pattern of a character with which `token` begins: what follows it is looked at and left."""
    return f"{re.escape(token[0])}(?={re.escape(token[1:])})"


def _append(whole: TokenizedText, ids: list[int], starts: list[int], ends: list[int]) -> None:
    whole.ids.extend(ids)
    whole.starts.extend(starts)
    whole.ends.extend(ends)


def _prefixes(messages: list[Message]) -> Iterator[list[Message]]:
    """Yield the prefixes of a conversation that may come again: up to the system message and each of the last turns.

    Without a system message the first is empty: a template may have put in a system message of its own.
    """
    has_system = bool(messages) and messages[0]["role"] == "system"
    first_turn = int(has_system) + 1
    yield messages[: int(has_system)]
    for end in range(max(first_turn, len(messages) + 1 - MAX_TURN_BOUNDARIES), len(messages) + 1):
        yield messages[:end]


def _without_end(text: str, messages: list[Message]) -> str:
    """Cut off what the template writes after the content of the last message, as transformers does."""
    last = messages[-1]
    content = last["content"].strip() if isinstance(last["content"], str) else ""
    position = text.rfind(content) if content and last["role"] == "assistant" else -1
    if position < 0:
        raise ValueError("only a last message of the assistant, with text in it, can be continued")
    return text[: position + len(content)]


def _checked_role(message: Message) -> str:
    role: str = message["role"]
    if role not in ROLES:  # templates build special tokens from it, such as "<|" + role + "|>"
        raise ValueError(f"role {role!r} is not known: use one of {', '.join(ROLES)}")
    return role


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Return a copy of a message's value with every text in it changed; tags stay as they are."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, TaggedText):
        return "".join(value.tags) + change(value.text)
    if isinstance(value, dict):
        return {key: _map_texts(entry, change) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_map_texts(entry, change) for entry in value]
    return value


def _copy(message: Message, change: Callable[[str], str]) -> Message:
    return {**_map_texts(message, change), "role": _checked_role(message)}


def _characters(message: Message) -> set[str]:
    """Return the characters of all texts of a message."""
    characters: set[str] = set()

    def collect(text: str) -> str:
        characters.update(text)
        return text

    _map_texts(message, collect)
    return characters
