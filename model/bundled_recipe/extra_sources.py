"""Training rows that stand in no file: persona, facts in other words, gap sentences, topics under borrowed labels."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, product
from pathlib import Path
from typing import Any

from model.bundled_recipe.chat_rows import chat_row
from model.bundled_recipe.everyday_facts import everyday_fact_rows
from model.bundled_recipe.fact_phrasings import fact_phrasing_rows
from model.bundled_recipe.interview_overlap import without_interview
from model.bundled_recipe.labelled import (
    TOPICS,
    WORDS_LEFT_OUT,
    headline_rows,
    labelled_row,
    left_out_rows,
    somebody_rows,
)
from model.bundled_recipe.talk.sources import TALK_SOURCES, persona_talk_rows
from model.training.data.gap_sentences import gap_sentences
from model.training.data.prepare import ExtraSource
from model.training.data.rows import Row, task_of

PERSONA_FILE = Path(__file__).with_name("persona.json")
# A source of headlines knows "health" from a handful of rows; another calls it "wellness", and medical sentences come
# with translations. Their rows under the first one's labels teach what a label means rather than which list it is in.
NEWS, MEDICINE = "analyze/huffpost-topic-en", "translate/tico19-en-zh"
LABEL_OF = {
    "business": "business",
    "science and technology": "technology",
    "entertainment": "entertainment",
    "wellness": "health",
}
REVIEWS = (
    "analyze/sentence-polarity-en",
    "analyze/uci-sentiment-en",
    "analyze/food-reviews-sentiment-en",
    "analyze/product-reviews-en",
    "analyze/taught-sentiment-en",
)
ASKED_ANEW = ("facts-en", "facts-zh", "definitions-en")  # chat sources whose facts come in more phrasings
HEADLINE_CHARACTERS = 78  # at most; the first source cuts its own there
_AFTER_SENTENCE = re.compile(r"(?<=[^\s.]{3}[.?!])\s")  # and not after "Samuel L." or "the U.S."


def read_persona() -> dict[str, Any]:
    """`topics`: language, questions and answers, any of which fits any question; `greetings` by language."""
    persona: dict[str, Any] = json.loads(PERSONA_FILE.read_text(encoding="utf-8"))
    return persona


def persona_rows(kept: Mapping[str, Sequence[Row]]) -> Iterator[Row]:
    """Yield every question with every answer of its topic as a chat row, every second one after a greeting.

    The greetings make the answers known in the middle of a conversation, too.
    """
    persona = read_persona()
    pairs = [(t["language"], *pair) for t in persona["topics"] for pair in product(t["questions"], t["answers"])]
    for number, (language, question, answer) in enumerate(pairs):
        before = persona["greetings"][language][number // 2 % 2] if number % 2 else ()
        yield chat_row([*before, question, answer])


def all_persona_rows(kept: Mapping[str, Sequence[Row]]) -> Iterator[Row]:
    """Yield persona_rows and the many phrasings of talk/persona.toml."""
    return chain(persona_rows(kept), persona_talk_rows(kept))


def topic_rows(kept: Mapping[str, Sequence[Row]]) -> Iterator[Row]:
    """Yield analyze rows under TOPICS from the rows of NEWS and MEDICINE.

    They also come as headlines: otherwise their form would tell the topic.
    """
    for row in kept.get(NEWS, ()):
        if row["label"] in LABEL_OF:
            for text in dict.fromkeys((row["text"], as_headline(row["text"]))):
                yield labelled_row(text, LABEL_OF[row["label"]], TOPICS)
    for row in kept.get(MEDICINE, ()):
        yield labelled_row(as_headline(row["source"]), "health", TOPICS)


def gap_sentence_rows(kept: Mapping[str, Sequence[Row]], language: str) -> Iterator[Row]:
    """Yield summarize rows from all documents and plain texts."""
    rows = (row for rows in kept.values() for row in rows)
    return gap_sentences((row.get("document") or row["text"] for row in rows), language)


def as_headline(text: str) -> str:
    """The first sentence without its full stop, or its first words and " ..." where it is too long for a headline.

    >>> as_headline("A Vote. It took all night.")
    'A Vote'
    """
    sentence = _AFTER_SENTENCE.split(text, maxsplit=1)[0].removesuffix(".")
    if len(sentence) <= HEADLINE_CHARACTERS:
        return sentence
    return sentence[: HEADLINE_CHARACTERS - 3].rpartition(" ")[0] + " ..."


def _is_prose(source: str) -> bool:
    """Whether the texts of a source consist of sentences and may serve as documents to summarize."""
    return task_of(source) in ("generate", "summarize") and "poetry" not in source


MORE_FACTS = {language: partial(fact_phrasing_rows, language=language) for language in ("en", "zh")}
_SOURCES = (
    ExtraSource("chat/routelm-persona", all_persona_rows),
    *(ExtraSource(f"chat/more-{name}", MORE_FACTS[name[-2:]], {f"chat/{name}"}.__contains__) for name in ASKED_ANEW),
    ExtraSource("chat/more-everyday-facts-en", everyday_fact_rows),
    ExtraSource("summarize/gap-sentences-en", partial(gap_sentence_rows, language="en"), reads=_is_prose),
    ExtraSource("summarize/gap-sentences-zh", partial(gap_sentence_rows, language="zh"), reads=_is_prose),
    ExtraSource("analyze/borrowed-topics-en", topic_rows, reads={NEWS, MEDICINE}.__contains__),
    ExtraSource("analyze/made-headlines-en", headline_rows),
    ExtraSource("analyze/words-left-out-en", left_out_rows, reads=WORDS_LEFT_OUT.__contains__),
    ExtraSource("analyze/somebody-en", somebody_rows, reads=REVIEWS.__contains__),
    *TALK_SOURCES,
)


def _unasked(source: ExtraSource) -> ExtraSource:
    """The source without the rows that ask what the interview asks."""
    return replace(source, rows=lambda kept: without_interview(source.rows(kept)))


EXTRA_SOURCES = tuple(map(_unasked, _SOURCES))
