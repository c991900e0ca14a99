"""From a row of a text file to training examples: token ids, and the kind of each token."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from model.text.language_detection import detect_language
from model.text.special_tokens import END_OF_TEXT, MESSAGE_END, MESSAGE_START
from model.text.task_prompts import Message, TaggedPrompts, TaggedText
from model.training.data.phrasings import ask_analyze, ask_summarize, ask_translate
from model.training.data.rows import Row

MAX_TOKENS = 512
INSTRUCTION_SHARE = 0.15  # of the training examples that ask in plain words instead of with task tags
PROMPT, ANSWER, HEADER = 0, 1, 2  # the kinds of tokens
_PROMPTS = TaggedPrompts()


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages from the system message to an assistant's answer."""

    messages: tuple[Message, ...]

    def texts(self) -> Iterator[str]:
        return (message["content"] for message in self.messages[1:])


@dataclass(frozen=True, slots=True)
class Document:
    """Plain text without roles."""

    text: str

    def texts(self) -> Iterator[str]:
        yield self.text


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of one example, and the kind of each.

    HEADER: the system message, role marks and the token that begins a text; never predicted. PROMPT: user messages.
    ANSWER: assistant messages and plain text, the targets of training.
    """

    token_ids: NDArray[np.uint16]
    kinds: NDArray[np.uint8]


def conversations(row: Row, *, with_instructions: bool) -> Iterator[Conversation | Document]:
    """Yield the drafts of a row: a translation in both directions, every other row once.

    With `with_instructions`, INSTRUCTION_SHARE of the translations, summaries and labels (chosen by a hash of the text)
    are asked for in plain words.
    """
    if row["task"] == "generate":
        yield Document(row["text"].strip())
    elif row["task"] == "chat":
        yield Conversation(tuple(_PROMPTS.chat([_stripped(message) for message in row["messages"]])))
    elif row["task"] == "translate":
        yield _translation(row["source"], row["target"], row["source_lang"], row["target_lang"], with_instructions)
        yield _translation(row["target"], row["source"], row["target_lang"], row["source_lang"], with_instructions)
    elif row["task"] == "summarize":
        yield _summary(row["document"].strip(), row["summary"].strip(), with_instructions)
    elif row["task"] == "analyze":
        yield _analysis(row["text"].strip(), row["label"], row["label_set"], with_instructions)
    else:
        raise ValueError(f"task {row['task']!r} is not known: use translate, summarize, chat, generate or analyze")


def length_of(summary: str, language: str) -> str:
    """Return "short", "medium" or "long": by words (at most 8, 20), in Chinese by characters (at most 12, 30)."""
    size, short, medium = (len(summary), 12, 30) if language == "zh" else (len(summary.split()), 8, 20)
    return "short" if size <= short else "medium" if size <= medium else "long"


class ExampleEncoder:
    """Turns conversations and documents into examples of at most MAX_TOKENS tokens.

    Texts between two special tokens are encoded on their own, as the pieces `role + newline` and `content`. For
    stripped contents this gives the ids of the rendered chat template: no token spans the newline.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.encode_special_tokens = True  # special tokens in a text stay text
        self._newline = self._encode("\n")
        self._roles = {role: self._encode(f"{role}\n") for role in ("system", "user", "assistant")}

    def encode(self, drafts: Sequence[Conversation | Document]) -> Iterator[list[Example]]:
        """Yield the examples of each draft: several for a long document, none for a conversation that does not fit."""
        texts = list(dict.fromkeys(text for draft in drafts for text in draft.texts()))
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        ids = {text: encoding.ids for text, encoding in zip(texts, encodings, strict=True)}
        for draft in drafts:
            if isinstance(draft, Document):
                yield self._document(ids[draft.text])
            else:
                yield self._conversation(draft, ids)

    def _document(self, ids: list[int]) -> list[Example]:
        """Cut into pieces of even size; each starts with the end-of-text token, only the last ends with it."""
        if not ids:
            return []
        mark = self._special(END_OF_TEXT)
        pieces = -(-len(ids) // (MAX_TOKENS - 2))
        starts = [len(ids) * piece // pieces for piece in range(pieces + 1)]
        bodies = [ids[start:end] for start, end in pairwise(starts)]
        return [
            _plain_text([mark, *body, *([mark] if number == pieces else [])])
            for number, body in zip(count(1), bodies, strict=False)
        ]

    def _conversation(self, conversation: Conversation, ids: dict[str, list[int]]) -> list[Example]:
        """Drop turns from the front, down to the last question and answer, until the rest fits."""
        header = self._header(conversation.messages[0]["content"])
        turns = [self._turn(message, ids) for message in conversation.messages[1:]]
        for start in range(0, len(turns), 2):
            tokens, kinds = list(header), [HEADER] * len(header)
            for turn_tokens, turn_kinds in turns[start:]:
                tokens += turn_tokens
                kinds += turn_kinds
            tokens, kinds = tokens[: -len(self._newline)], kinds[: -len(self._newline)]
            if len(tokens) <= MAX_TOKENS:
                return [Example(np.array(tokens, np.uint16), np.array(kinds, np.uint8))]
        return []

    def _turn(self, message: Message, ids: dict[str, list[int]]) -> tuple[list[int], list[int]]:
        before = [self._special(MESSAGE_START), *self._roles[message["role"]]]
        content = [*ids[message["content"]], self._special(MESSAGE_END)]
        kind = ANSWER if message["role"] == "assistant" else PROMPT
        tokens = [*before, *content, *self._newline]
        return tokens, [HEADER] * len(before) + [kind] * len(content) + [HEADER] * len(self._newline)

    def _header(self, system: TaggedText) -> list[int]:
        tags = [self._special(tag) for tag in system.tags]
        body = [*self._roles["system"], *tags, *self._encode(system.text), self._special(MESSAGE_END)]
        return [self._special(MESSAGE_START), *body, *self._newline]

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _special(self, token: str) -> int:
        token_id: int | None = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise ValueError(f"the tokenizer has no token {token}: take one that `routelm train-tokenizer` has made")
        return token_id


def _plain_text(tokens: list[int]) -> Example:
    return Example(np.array(tokens, np.uint16), np.array([HEADER] + [ANSWER] * (len(tokens) - 1), np.uint8))


def _translation(source: str, target: str, source_lang: str, target_lang: str, instruct: bool) -> Conversation:
    source, target = source.strip(), target.strip()
    choice = _instruction_choice("translate", target_lang, source) if instruct else None
    if choice is None:
        return _answered(_PROMPTS.translate(source, source_lang, target_lang), target)
    return _answered(_plain(ask_translate(source, source_lang, target_lang, choice)), target)


def _summary(document: str, summary: str, instruct: bool) -> Conversation:
    language = detect_language(document)
    length = length_of(summary, language)
    choice = _instruction_choice("summarize", document) if instruct else None
    if choice is None:
        return _answered(_PROMPTS.summarize(document, language, length), summary)
    return _answered(_plain(ask_summarize(document, length, choice)), summary)


def _analysis(text: str, label: str, labels: Sequence[str], instruct: bool) -> Conversation:
    choice = _instruction_choice("analyze", ",".join(labels), text) if instruct else None
    if choice is None:
        return _answered(_PROMPTS.analyze(text, labels), label)
    return _answered(_plain(ask_analyze(text, labels, detect_language(text), choice)), label)


def _plain(request: str) -> list[Message]:
    return _PROMPTS.chat([{"role": "user", "content": request}])


def _answered(messages: list[Message], answer: str) -> Conversation:
    return Conversation((*messages, {"role": "assistant", "content": answer}))


def _stripped(message: Message) -> Message:
    return {"role": message["role"], "content": message["content"].strip()}


def _instruction_choice(*parts: str) -> int | None:
    """Return a number to choose a phrase by, or None for the tagged form. The same text always gives the same."""
    digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest()
    if int.from_bytes(digest[:4]) >= INSTRUCTION_SHARE * 2**32:
        return None
    return int.from_bytes(digest[4:])
