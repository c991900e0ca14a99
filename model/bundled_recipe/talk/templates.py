"""Chat rows from templates: every turn has several wordings, and {slots} are filled from word lists.

A template file holds one TOML table per language. An entry of it is a talk, a list of turns with the user's first;
"|" divides the wordings of a turn. "{food}" is a word of the list `food` in words.toml, the same one in the whole talk;
"{food2}" is another one and "{first_turn}" is what the user said first. Words may have several forms, divided by "/":
"{food.1}" is the second form. Where a function fills the slot {word} of an exercise, "{Word}" begins with a capital.
"""

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from math import prod
from pathlib import Path
from random import Random
from typing import Any

from model.bundled_recipe.chat_rows import capitalized, chat_row
from model.training.data.rows import Row

Turns = list[list[str]]  # the wordings of each turn
Slots = dict[str, str]
_SLOT = re.compile(r"(\b[Aa] )?\{(([A-Za-z_]+)\d?)(?:\.(\d))?\}")
_OUTSIDE_SLOTS = re.compile(r"[^{}]+(?![^{}]*\})")
_OPENERS = {
    "en": [
        "So, ",
        "Hey, ",
        "Tell me, ",
        "By the way, ",
        "One question: ",
        "Please tell me: ",
        "OK, and ",
        "Hello! ",
        "Hi! ",
        "Well, ",
        "Now, ",
        "I wonder: ",
        "Another thing: ",
        "Excuse me, ",
        "Sorry, ",
        "Good day! ",
        "I have a question! ",
        "Thanks! ",
    ],
    "zh": ["请问，", "那", "我想知道，", "对了，", "我问你，", "嗨，", "你好！"],
    "de": ["Sag mal, ", "Eine Frage: ", "Und ", "Hallo, "],
    "fr": ["Dis-moi, ", "Une question : ", "Et ", "Bonjour, "],
}
_CASUAL, _OPENED, _CONTINUED = 0.25, 0.12, 0.2  # shares of user texts without capitals and end mark, and so on
_KEEPS_CAPITAL = ("I ", "I'", "RouteLM", "ChatGPT", "MoE", "Siri", "Alexa", "Google", "English", "French", "Chinese")


@cache
def read_tables(file: str) -> dict[str, Any]:
    """The tables of a file below this folder, read once: the files are large."""
    return tomllib.loads((Path(__file__).parent / file).read_text(encoding="utf-8"))


def read_talks(file: str, language: str) -> dict[str, Turns]:
    """The talks of one language of a template file, by topic; empty where it has none."""
    talks = read_tables(file).get(language, {})
    return {topic: [split_wordings(turn) for turn in turns] for topic, turns in talks.items()}


@cache
def read_words(language: str) -> dict[str, list[list[str]]]:
    """The word lists of a language: name to words, each a list of its forms."""
    lists = read_tables("words.toml")[language]
    return {name: [split_wordings(word, "/") for word in split_wordings(words)] for name, words in lists.items()}


def split_wordings(text: str, mark: str = "|") -> list[str]:
    """The parts of `text` between the marks, without the spaces around them."""
    return [part.strip() for part in text.split(mark)]


@dataclass(frozen=True, slots=True)
class TalkWriter:
    """Writes the rows of one language, the same ones each time for the same `seed`."""

    language: str
    seed: str
    random: Random = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "random", Random(f"{self.language} {self.seed}"))

    def rows(self, talks: Mapping[str, Turns], at_most: int) -> Iterator[Row]:
        """Yield up to `at_most` rows of each talk; some start with a shorter talk, as conversations go on."""
        earlier: list[list[str]] = []
        for turns in talks.values():
            for texts in self._distinct(turns, at_most):
                before = self.random.choice(earlier) if earlier and self.random.random() < _CONTINUED else []
                yield chat_row([*before, *texts])
                if len(texts) == 2 and self.random.random() < 0.1:
                    earlier.append(texts)

    def exercise_rows(self, turns: Turns, compute: Callable[[Random], Slots], at_most: int) -> Iterator[Row]:
        """Yield up to `at_most` rows of an exercise, whose slots `compute` fills."""
        seen = set()
        for _ in range(at_most):
            texts = self.write(turns, compute(self.random))
            if texts[0] not in seen:
                seen.add(texts[0])
                yield chat_row(texts)

    def _distinct(self, turns: Turns, at_most: int) -> Iterator[list[str]]:
        has_slots = any("{" in wording for turn in turns for wording in turn)
        seen = set()
        for _ in range(at_most if has_slots else min(at_most, 3 * prod(map(len, turns)))):
            texts = self.write(turns, {})
            if tuple(texts) not in seen:
                seen.add(tuple(texts))
                yield texts

    def write(self, turns: Turns, slots: Slots) -> list[str]:
        """One wording of each turn, with its slots filled from `slots`, else from the word lists."""
        chosen = {name: [text] for name, text in slots.items()}
        chosen |= {capitalized(name): [capitalized(text)] for name, text in slots.items()}
        texts = []
        for number, wordings in enumerate(turns):
            wording = self.random.choice(wordings)
            typed = wording if number % 2 else self._as_typed(wording, opened=number == 0 and not slots)
            texts.append(self._fill(typed, chosen, starts_large=not slots and typed == wording))
            chosen["first_turn"] = texts[:1]
        return texts

    def _fill(self, template: str, chosen: dict[str, list[str]], starts_large: bool) -> str:
        def word(match: re.Match[str]) -> str:
            article, name, words, form = match.groups()
            if name not in chosen:
                taken = [forms for other, forms in chosen.items() if other.startswith(words)]
                chosen[name] = self._another(words, taken)
            text = chosen[name][int(form or 0)]
            return (article[0] + "n " if article and text[0].lower() in "aeiou" else article or "") + text

        text = _SLOT.sub(word, template)
        return capitalized(text) if starts_large else text

    def _another(self, words: str, taken: list[list[str]]) -> list[str]:
        """The forms of a word of a list, but none of those `taken`."""
        every = read_words(self.language)[words]
        return self.random.choice([forms for forms in every if forms not in taken] if taken else every)

    def _as_typed(self, template: str, opened: bool) -> str:
        """The template after an opener ("So, ..."), or as people type in a hurry, or as it is."""
        draw = self.random.random()
        if draw < _CASUAL:
            return _OUTSIDE_SLOTS.sub(lambda match: match[0].lower(), template).rstrip(".?!。？！ ")
        if opened and draw < _CASUAL + _OPENED and template[-1] in "?？":
            opener = self.random.choice(_OPENERS[self.language])
            if "!" not in opener and not template.startswith(_KEEPS_CAPITAL):
                template = template[0].lower() + template[1:]
            return opener + template
        return template
