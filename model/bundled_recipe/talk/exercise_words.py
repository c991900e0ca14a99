"""The words of the exercises, and the exercises that only take words from the lists."""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

from model.bundled_recipe.talk.templates import Slots, split_wordings

Compute = Callable[[Random], Slots]  # the slots of one exercise
Entry = list[str]  # the forms of a word


@cache
def read_table(language: str, table: str) -> dict[str, list[Entry]]:
    """A table of exercise_words.toml: its lists by name."""
    words = tomllib.loads(Path(__file__).with_name("exercise_words.toml").read_text(encoding="utf-8"))
    return {
        name: [split_wordings(entry, "/") for entry in split_wordings(text)]
        for name, text in words[language][table].items()
    }


@dataclass(frozen=True, slots=True)
class WordLists:
    """The word lists of one language."""

    language: str

    def entries(self, name: str) -> list[Entry]:
        """All entries of a list."""
        return read_table(self.language, "lists")[name]

    def words(self, name: str) -> list[str]:
        """The first form of each entry of a list."""
        return [forms[0] for forms in self.entries(name)]

    def entry(self, random: Random, name: str) -> Entry:
        """A random entry of a list."""
        return random.choice(self.entries(name))

    def word(self, random: Random, name: str) -> str:
        """The first form of a random entry of a list."""
        return self.entry(random, name)[0]

    def forms(self, name: str, *slots: str) -> Compute:
        """The exercise whose slots are the forms of an entry."""
        return lambda random: dict(zip(slots, self.entry(random, name), strict=True))

    def two_forms(self, name: str) -> Compute:
        """The exercise whose slots `word` and `other` are two forms of an entry."""
        return lambda random: dict(zip(("word", "other"), random.sample(self.entry(random, name), 2), strict=True))

    def one_of_each(self, **lists: str) -> Compute:
        """The exercise that takes one word for each slot from the list that is named for it."""
        return lambda random: {slot: self.word(random, name) for slot, name in lists.items()}
