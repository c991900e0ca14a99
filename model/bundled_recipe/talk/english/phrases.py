"""Exercises about the everyday phrases of phrases.toml and their translations."""

from functools import cache
from random import Random

from model.bundled_recipe.talk.english.basics import LANGUAGES
from model.bundled_recipe.talk.exercise_words import Compute
from model.bundled_recipe.talk.templates import Slots, read_tables

SHORT = "short"  # the table of the phrases that are no sentences
_PEOPLE = ("an English person", "a German person", "a French person", "a Chinese person")


@cache
def read_phrases(short: bool) -> list[list[str]]:
    """The phrases in the order of LANGUAGES: either those that are sentences, or the short ones."""
    tables = read_tables("english/phrases.toml")
    return [phrase for name, phrases in tables.items() if (name == SHORT) == short for phrase in phrases]


def _translation(random: Random, source: int, target: int, short: bool = False) -> Slots:
    forms = random.choice(read_phrases(short))
    return {
        "text": forms[source],
        "spoken": _spoken(forms[source]),
        "target": forms[target],
        "language": LANGUAGES[target],
        "source": LANGUAGES[source],
        "person": _PEOPLE[target],
    }


def _spoken(text: str) -> str:
    """The text as it stands inside another sentence: "good morning", "I am late"."""
    bare = text.rstrip(".!?！。？ ")
    keeps_capital = bare.split(" ")[0] in ("I", "I'm")
    return bare if keeps_capital else bare[0].lower() + bare[1:]


def translate_phrase(random: Random) -> Slots:
    """An English sentence in another language."""
    return _translation(random, 0, random.randint(1, 3))


def translate_short(random: Random) -> Slots:
    """A short English phrase in another language."""
    return _translation(random, 0, random.randint(1, 3), short=True)


def phrase_meaning(random: Random) -> Slots:
    """A sentence of another language in English."""
    return _translation(random, random.randint(1, 3), 0)


def between_languages(random: Random) -> Slots:
    """A sentence of one language in any other."""
    source, target = random.sample(range(len(LANGUAGES)), 2)
    return _translation(random, source, target)


def phrase_language(random: Random) -> Slots:
    """A sentence and the language it is in."""
    column = random.randrange(len(LANGUAGES))
    return {"text": random.choice(read_phrases(short=False))[column], "language": LANGUAGES[column]}


COMPUTE: dict[str, Compute] = {
    "translate_phrase": translate_phrase,
    "translate_spoken": translate_phrase,
    "translate_short": translate_short,
    "phrase_meaning": phrase_meaning,
    "between_languages": between_languages,
    "phrase_language": phrase_language,
}
