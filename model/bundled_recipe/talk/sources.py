"""The training sources that are made from the templates of this folder."""

from collections.abc import Callable, Iterator
from functools import partial

from model.bundled_recipe.talk.templates import TalkWriter, read_talks
from model.training.data.prepare import ExtraSource, KeptRows
from model.training.data.rows import Row

LANGUAGES = ("en", "zh", "de", "fr")


def talk_rows(kept: KeptRows, file: str, languages: tuple[str, ...], at_most: int) -> Iterator[Row]:
    """Yield the talks of a template file in some languages, `at_most` rows of each."""
    for language in languages:
        yield from TalkWriter(language, seed=file).rows(read_talks(file, language), at_most)


def _from_file(file: str, languages: tuple[str, ...], at_most: int) -> Callable[[KeptRows], Iterator[Row]]:
    return partial(talk_rows, file=file, languages=languages, at_most=at_most)


persona_talk_rows = _from_file("persona.toml", LANGUAGES, 120)

TALK_SOURCES = (ExtraSource("chat/refusals", _from_file("refusals.toml", ("en", "zh"), 400)),)
