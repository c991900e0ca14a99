"""The words of the exercises, and the exercises that only take words from the lists."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random

from model.bundled_recipe.talk.templates import Slots, read_tables, split_wordings

Compute = Callable[[Random], Slots]  # the slots of one exercise
Entry = list[str]  # the forms of a word


@cache
def read_table(language: str, table: str) -> dict[str, list[Entry]]:
    """A table of exercise_words.toml: its lists by name."""
    lists = read_tables("exercise_words.toml")[language][table]
    return {name: [split_wordings(entry, "/") for entry in split_wordings(text)] for name, text in lists.items()}


@cache
def _first_forms(language: str, name: str) -> list[str]:
    return [forms[0] for forms in read_table(language, "lists")[name]]


@dataclass(frozen=True, slots=True)
class WordLists:
    """The word lists of one language."""

    language: str

    def entries(self, name: str) -> list[Entry]:
        """All entries of a list."""
        return read_table(self.language, "lists")[name]

    def words(self, name: str) -> list[str]:
        """The first form of each entry of a list."""
        return _first_forms(self.language, name)

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
