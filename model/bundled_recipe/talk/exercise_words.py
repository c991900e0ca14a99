"""The words of the exercises, and what English and Chinese exercises compute alike."""

import tomllib
from collections.abc import Callable
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


def entry_of(random: Random, language: str, name: str) -> Entry:
    """A random entry of a list."""
    return random.choice(read_table(language, "lists")[name])


def two_numbers(random: Random, highest: int = 99) -> Slots:
    """Two different numbers and their order."""
    a, b = random.sample(range(1, highest + 1), 2)
    return {"a": str(a), "b": str(b), "big": str(max(a, b)), "small": str(min(a, b))}


def sorted_numbers(random: Random, separator: str, descending: bool = False) -> Slots:
    """Three or four numbers, and the same in order."""
    numbers = random.sample(range(1, random.choice([10, 30, 100])), random.choice([3, 3, 4]))
    ordered = sorted(numbers, reverse=descending)
    return {"numbers": separator.join(map(str, numbers)), "sorted": separator.join(map(str, ordered))}


def counted(first: int, last: int, separator: str) -> str:
    """The numbers from `first` to `last`, up or down."""
    step = 1 if last >= first else -1
    return separator.join(map(str, range(first, last + step, step)))
