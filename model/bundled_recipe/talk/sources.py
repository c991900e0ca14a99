"""The training sources that are made from the templates of this folder."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice, product

from model.bundled_recipe.chat_rows import chat_row
from model.bundled_recipe.talk import english, exercises_zh
from model.bundled_recipe.talk.templates import TalkWriter, Turns, read_talks
from model.text.special_tokens import LANGUAGES
from model.text.task_prompts import LANGUAGE_NAMES
from model.training.data.prepare import ExtraSource, KeptRows
from model.training.data.rows import Row

COMPUTE = {"en": english.COMPUTE, "zh": exercises_zh.COMPUTE}
# Exercises of many possible contents: how many times the rows of another one.
RICH = {"reading": 10, "translate_word": 3, "translate_phrase": 4, "phrase_meaning": 3, "between_languages": 3}
RICH |= {"translate_spoken": 3, "number_sequence": 2, "list_things": 2, "odd_one": 2, "category": 2, "not_a_kind": 2}
EVERYDAY = "translate/tatoeba"  # sources of short sentences and their translations
LONGEST_SENTENCE = 40  # characters; of Chinese half of it
PERSONA_ROWS = {"en": 450, "zh": 360}  # of each talk about the model itself; 120 in German and French
PERSONA_FILES = ("persona.toml", "more_persona.toml")
SMALL_TALK_FILES = tuple(
    f"smalltalk/{name}.toml" for name in ("basics", "people", "days", "feelings", "manners", "opinions", "chinese")
)
TALK_FILES = ("refusals.toml", "health.toml", "jobs.toml", "talks.toml")
SENTENCES = 700  # translated in each direction


def talk_rows(kept: KeptRows, files: Sequence[str], languages: tuple[str, ...], at_most: int) -> Iterator[Row]:
    """Yield the talks of template files in some languages, `at_most` rows of each."""
    for file, language in product(files, languages):
        yield from TalkWriter(language, seed=file).rows(read_talks(file, language), at_most)


def exercise_rows(kept: KeptRows, language: str, at_most: int) -> Iterator[Row]:
    """Yield `at_most` rows of each exercise of a language, and translations of kept everyday sentences."""
    writer, exercises = TalkWriter(language, seed="exercises"), read_talks("exercises.toml", language)
    for name, compute in COMPUTE[language].items():
        yield from writer.exercise_rows(exercises[name], compute, at_most * RICH.get(name, 1))
    for rows in kept.values():
        for row in islice(filter(_is_short, rows), SENTENCES):
            yield from _translations(writer, exercises, row)


def _is_short(row: Row) -> bool:
    texts = (row["source"], row["source_lang"]), (row["target"], row["target_lang"])
    return all(len(text) <= LONGEST_SENTENCE // (2 if language == "zh" else 1) for text, language in texts)


def _translations(writer: TalkWriter, exercises: dict[str, Turns], row: Row) -> Iterator[Row]:
    """Both directions of a translation, as far as the writer's language is that of the instruction."""
    source, target = row["source_lang"], row["target_lang"]
    for language, text, translated in ((target, row["source"], row["target"]), (source, row["target"], row["source"])):
        name = "translate" if writer.language == "en" else f"translate_to_{language}"
        if {source, target} == {"en", "zh"} or writer.language == "en":
            slots = {"text": text, "target": translated, "language": LANGUAGE_NAMES[language]}
            yield chat_row(writer.write(exercises[name], slots))


def _from_files(files: Sequence[str], languages: tuple[str, ...], at_most: int) -> Callable[[KeptRows], Iterator[Row]]:
    return partial(talk_rows, files=files, languages=languages, at_most=at_most)


def persona_talk_rows(kept: KeptRows) -> Iterator[Row]:
    """Yield the talks about the model itself, the most in the languages with the most wordings."""
    for language in LANGUAGES:
        yield from talk_rows(kept, PERSONA_FILES, (language,), at_most=PERSONA_ROWS.get(language, 120))


def _is_everyday(source: str) -> bool:
    return source.startswith(EVERYDAY)


TALK_SOURCES = (
    ExtraSource("chat/refusals", _from_files(("refusals.toml",), ("en", "zh"), 900)),
    ExtraSource("chat/health", _from_files(("health.toml",), ("en", "zh"), 1000)),
    ExtraSource("chat/jobs-en", _from_files(("jobs.toml",), ("en",), 1200)),
    ExtraSource("chat/jobs-zh", _from_files(("jobs.toml",), ("zh",), 400)),
    ExtraSource("chat/talks-en", _from_files(("talks.toml",), ("en",), 1000)),
    ExtraSource("chat/talks-zh", _from_files(("talks.toml",), ("zh",), 1100)),
    ExtraSource("chat/more-smalltalk-en", _from_files(SMALL_TALK_FILES, ("en", "de", "fr"), 450)),
    ExtraSource("chat/more-smalltalk-zh", _from_files(SMALL_TALK_FILES, ("zh",), 600)),
    ExtraSource("chat/more-tasks-en", partial(exercise_rows, language="en", at_most=1000), reads=_is_everyday),
    ExtraSource("chat/more-tasks-zh", partial(exercise_rows, language="zh", at_most=900), reads=_is_everyday),
)
