"""Prompts of the tasks: with task tags for models that were trained with them, in plain English for all others.

Task tags are special tokens. They are in the `tags` of a `TaggedText`, the only part of a message that can become
special tokens; everything from a client is `str` and stays ordinary text.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from model.text.special_tokens import LANGUAGES, LENGTHS, TASKS, language_tag, length_tag, task_tag

Message = dict[str, Any]  # {"role": ..., "content": str or TaggedText, ...}

LANGUAGE_NAMES = {"en": "English", "zh": "Chinese", "de": "German", "fr": "French"}
LENGTH_PHRASES = {
    "short": "in at most eight words",
    "medium": "in one short sentence",
    "long": "in one or two sentences",
}


@dataclass(frozen=True, slots=True)
class TaggedText:
    """Message content: trusted special tokens (`tags`), followed by untrusted `text`."""

    tags: tuple[str, ...]
    text: str = ""


class TaskPrompts(Protocol):
    """The messages of each task, for the chat template. Unknown languages, lengths or labels raise ValueError.

    What is known about the training of the model:
    `native_tasks`: the tasks it was trained for; it is prompted for others in plain English.
    `translation_pairs`: its (source, target) languages, None if unknown.
    `translation_beams`: the beam width for translation that is worth its time, by measurement.
    `summaries_from_sentences`: whether extractive summaries are better than generated ones.
    `sentence_by_sentence`: whether it was trained to translate single sentences.
    `longest_document`: the most tokens of a document that it was trained to summarize, None if unknown.
    """

    native_tasks: tuple[str, ...]
    translation_pairs: frozenset[tuple[str, str]] | None
    translation_beams: int
    summaries_from_sentences: bool
    sentence_by_sentence: bool
    longest_document: int | None

    def translate(self, text: str, source: str, target: str) -> list[Message]: ...

    def summarize(self, text: str, language: str, length: str) -> list[Message]: ...

    def analyze(self, text: str, labels: Sequence[str]) -> list[Message]: ...

    def extract(self, text: str, schema: str) -> list[Message]:
        """`schema`: the text of a JSON schema."""
        ...

    def decide(self, text: str, question: str, options: Sequence[tuple[str, str]]) -> list[Message]:
        """`options`: labels and their descriptions, which may be empty."""
        ...

    def chat(self, messages: Sequence[Message]) -> list[Message]: ...


class TaggedPrompts:
    """For models that were trained with task tags: the system message has only the tags."""

    native_tasks: tuple[str, ...] = TASKS
    translation_pairs: frozenset[tuple[str, str]] | None = frozenset(
        pair for other in LANGUAGES[1:] for pair in (("en", other), (other, "en"))
    )
    translation_beams = 4
    summaries_from_sentences = True  # by measurement: generated ones have a lower ROUGE score
    sentence_by_sentence = True
    longest_document: int | None = 440  # training examples have 512 tokens, prompt and answer together

    def translate(self, text: str, source: str, target: str) -> list[Message]:
        _check("source language", source, LANGUAGES)
        _check("target language", target, LANGUAGES)
        return _task(text, (task_tag("translate"), language_tag(source), language_tag(target)))

    def summarize(self, text: str, language: str, length: str) -> list[Message]:
        _check("language", language, LANGUAGES)
        _check("length", length, LENGTHS)
        return _task(text, (task_tag("summarize"), language_tag(language), length_tag(length)))

    def analyze(self, text: str, labels: Sequence[str]) -> list[Message]:
        return _task(text, (task_tag("analyze"),), _join_labels(labels))

    def extract(self, text: str, schema: str) -> list[Message]:
        return self.chat(_extraction(text, schema))

    def decide(self, text: str, question: str, options: Sequence[tuple[str, str]]) -> list[Message]:
        return self.analyze(f"{text}\n\n{question}", [label for label, _ in options])

    def chat(self, messages: Sequence[Message]) -> list[Message]:
        """Put the chat tag before the text of the system message, or add a system message with it."""
        given = messages[0]["content"] if messages and messages[0]["role"] == "system" else None
        system = TaggedText((task_tag("chat"),), "" if given is None else given.strip())
        return [{"role": "system", "content": system}, *messages[given is not None :]]


class InstructionPrompts:
    """For all other chat models: the tasks as instructions in plain English."""

    native_tasks: tuple[str, ...] = ()
    translation_pairs: frozenset[tuple[str, str]] | None = None
    translation_beams = 1
    summaries_from_sentences = False
    sentence_by_sentence = False
    longest_document: int | None = None

    def translate(self, text: str, source: str, target: str) -> list[Message]:
        _check("source language", source, LANGUAGES)
        _check("target language", target, LANGUAGES)
        languages = f"from {LANGUAGE_NAMES[source]} to {LANGUAGE_NAMES[target]}"
        return _instruction(f"Translate the text {languages}. Answer with the translation only.", text)

    def summarize(self, text: str, language: str, length: str) -> list[Message]:
        _check("language", language, LANGUAGES)
        _check("length", length, LENGTHS)
        wish = f"{LENGTH_PHRASES[length]}, in {LANGUAGE_NAMES[language]}"
        return _instruction(f"Summarize the text {wish}. Answer with the summary only.", text)

    def analyze(self, text: str, labels: Sequence[str]) -> list[Message]:
        choice = f"Which of these labels fits the text best: {_join_labels(labels)}?"
        return _instruction(f"{choice} Answer with the label only.", text)

    def extract(self, text: str, schema: str) -> list[Message]:
        return _extraction(text, schema)

    def decide(self, text: str, question: str, options: Sequence[tuple[str, str]]) -> list[Message]:
        """The text comes first: questions about the same text share that prefix."""
        described = "\n".join(f"- {label}: {told}" if told else f"- {label}" for label, told in options)
        asked = f"About the text above: {question}\nAnswer with one of these and nothing else:\n{described}"
        return [{"role": "user", "content": f"{text}\n\n{asked}"}]

    def chat(self, messages: Sequence[Message]) -> list[Message]:
        return list(messages)


def prompts_for(special_tokens: Container[str]) -> TaskPrompts:
    """Return the prompts for a checkpoint, depending on the special tokens of its tokenizer."""
    return TaggedPrompts() if task_tag("translate") in special_tokens else InstructionPrompts()


def _task(text: str, tags: tuple[str, ...], system_text: str = "") -> list[Message]:
    return [{"role": "system", "content": TaggedText(tags, system_text)}, {"role": "user", "content": text}]


def _instruction(instruction: str, text: str) -> list[Message]:
    return [{"role": "user", "content": f"{instruction}\n\n{text}"}]


def _extraction(text: str, schema: str) -> list[Message]:
    return _instruction(f"Analyze the text. Answer with nothing but JSON that follows this JSON schema: {schema}", text)


def _join_labels(labels: Sequence[str]) -> str:
    if not labels:
        raise ValueError("labels is empty: give at least one label, such as ['positive', 'negative']")
    return ", ".join(labels)


def _check(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} {value!r} is not known: use one of {', '.join(allowed)}")
