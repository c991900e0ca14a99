"""Facts that every child knows, and invented names that nobody can know, asked in the phrasings of the facts.

A model that has only met real names answers a question about an unknown one with the facts of another.
"""

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from model.bundled_recipe.fact_phrasings import Slots, fact_rows, read_phrasings
from model.training.data.rows import Row

FACTS_FILE = Path(__file__).with_name("everyday_facts_en.toml")
BETWEEN_SLOTS = " = "


def everyday_fact_rows(kept: Mapping[str, Sequence[Row]]) -> Iterator[Row]:
    """Yield chat rows about the facts of FACTS_FILE and about the invented names."""
    yield from fact_rows(read_phrasings("en"), read_facts() | unknown_names())


def read_facts() -> dict[str, list[Slots]]:
    """The facts by the name of their type. ValueError for one that has not a value for each slot."""
    return {
        name: [dict(zip(table["slots"], fact.split(BETWEEN_SLOTS), strict=True)) for fact in table["facts"]]
        for name, table in _read_file()["facts"].items()
    }


def unknown_names() -> dict[str, list[Slots]]:
    """Invented names by the type of their questions, the same at each call."""
    names = NameMaker(Random("unknown names"), _read_file()["parts_of_names"])
    kinds: dict[str, tuple[Callable[[], str], int]] = {
        "unknown-name": (names.place, 500),
        "unknown-person": (names.person, 260),
        "unknown-work": (names.work, 200),
        "unknown-event": (names.event, 80),
        "unknown-invention": (lambda: f"the {names.thing()}", 100),
        "unknown-thing": (lambda: f"a {names.thing()}", 150),
    }
    return {kind: [{"x": name} for name in _distinct(make, count)] for kind, (make, count) in kinds.items()}


@cache
def _read_file() -> dict[str, Any]:
    return tomllib.loads(FACTS_FILE.read_text(encoding="utf-8"))


def _distinct(make: Callable[[], str], count: int) -> list[str]:
    names: dict[str, None] = {}
    while len(names) < count:
        names[make()] = None
    return list(names)


class NameMaker:
    """Puts names together at random from `parts`, words divided by spaces."""

    def __init__(self, random: Random, parts: Mapping[str, str]) -> None:
        self._random = random
        self._parts = {name: words.split() for name, words in parts.items()}

    def place(self) -> str:
        return self._word("place_ends")

    def person(self) -> str:
        return f"{self._word('first_name_ends')} {self._word('surname_ends')}"

    def thing(self) -> str:
        """A common noun that begins with a consonant."""
        return self._any("starts").lower() + self._any("thing_ends")

    def work(self) -> str:
        adjective = f"{self._any('adjectives')} " if self._random.random() < 0.5 else ""
        return f"The {adjective}{self._any('objects')} of {self.place()}"

    def event(self) -> str:
        return f"the {self.place()} {self._any('events')}"

    def _word(self, ends: str) -> str:
        middle = self._any("middles") if self._random.random() < 0.7 else ""
        return self._any("starts") + middle + self._any(ends)

    def _any(self, part: str) -> str:
        return self._random.choice(self._parts[part])
