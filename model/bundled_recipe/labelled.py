"""Labelled rows from templates and from other rows: headlines, headlines with words left out, and feelings of anybody.

A bag of words beats the network at topics of headlines, because each word counts there by itself: headlines with words
left out teach that. Who a sentence is about must not change its sentiment (counterfactual data, arXiv 1807.11714).
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import chain, islice
from pathlib import Path
from random import Random
from typing import Any

from model.bundled_recipe.chat_rows import capitalized
from model.bundled_recipe.talk.templates import split_wordings
from model.training.data.rows import Row

TEMPLATES_FILE = Path(__file__).with_name("labelled.toml")
TOPICS = ["business", "technology", "entertainment", "health"]
FEELINGS = ["positive", "negative"]
HEADLINES_PER_TOPIC = 4000
WORDS_LEFT_OUT = {  # source: variants of each row
    "analyze/uci-news-topic-en": 4,
    "analyze/clinc-domain-en": 1,
    "analyze/sentence-polarity-en": 3,
    "analyze/uci-sentiment-en": 2,
}
KEPT_SHARES = (0.4, 0.8)  # of the words of a variant
PEOPLE_PER_SENTENCE = 120
REVIEWS_BY_SOMEBODY = 9000
PEOPLE_PER_RETOLD_SENTENCE = 10
INVENTED_NAMES = 1500
_SLOT = re.compile(r"\{([a-z_]+)\d?\}")
_I_DID = re.compile(
    r"I (?=(?:was|had|loved|bought|tried|found|got|thought|went|ordered|enjoyed|hated|felt|left|liked|wanted|needed"
    r"|used|received|could|couldn't|didn't|would|wouldn't|will|won't|can't) )"
)
_FIRST_PERSON = re.compile(r"\b(?:I|me|my|mine|myself|we|our|us)\b", re.IGNORECASE)


@cache
def read_templates() -> dict[str, Any]:
    """The tables of labelled.toml."""
    return tomllib.loads(TEMPLATES_FILE.read_text(encoding="utf-8"))


def headline_rows(kept: Mapping[str, Sequence[Row]]) -> Iterator[Row]:
    """Yield HEADLINES_PER_TOPIC headlines of every topic."""
    templates, random = read_templates()["headlines"], Random("headlines")
    words = {name: split_wordings(text) for name, text in templates["words"].items()}
    for topic in TOPICS:
        forms = split_wordings(templates[topic]["forms"])
        texts = (_headline(random.choice(forms), words, random) for _ in range(HEADLINES_PER_TOPIC))
        yield from (labelled_row(text, topic, TOPICS) for text in dict.fromkeys(texts))


def _headline(form: str, words: Mapping[str, Sequence[str]], random: Random) -> str:
    chosen: dict[str, str] = {}

    def word(slot: re.Match[str]) -> str:
        if slot[0] not in chosen:
            chosen[slot[0]] = random.choice([w for w in words[slot[1]] if w not in chosen.values()])
        return chosen[slot[0]]

    return capitalized(_SLOT.sub(word, form))


def left_out_rows(kept: Mapping[str, Sequence[Row]]) -> Iterator[Row]:
    """Yield the rows of WORDS_LEFT_OUT with the label of the whole text and some of its words, in order."""
    random = Random("words left out")
    for source, variants in WORDS_LEFT_OUT.items():
        for row in kept.get(source, ()):
            words = row["text"].split()
            for _ in range(variants if len(words) > 3 else 0):
                count = max(2, round(len(words) * random.uniform(*KEPT_SHARES)))
                places = sorted(random.sample(range(len(words)), count))
                yield row | {"text": " ".join(words[place] for place in places)}


def somebody_rows(kept: Mapping[str, Sequence[Row]]) -> Iterator[Row]:
    """Yield sentences about many people, with the same label whoever it is, and reviews said by or of somebody.

    A neutral sentence has one label with half of the people and the other with the rest: its score is one half.
    """
    random = Random("somebody")
    yield from chain(_feelings(random), islice(_said(kept, random), REVIEWS_BY_SOMEBODY), _retold(kept, random))


def _feelings(random: Random) -> Iterator[Row]:
    for feeling, sentences in read_templates()["feelings"].items():
        for sentence in split_wordings(sentences):
            for number, person in enumerate(random.sample(people(), PEOPLE_PER_SENTENCE)):
                label = FEELINGS[number % 2] if feeling == "neutral" else feeling
                yield labelled_row(sentence.format(person), label, FEELINGS)


def _said(kept: Mapping[str, Sequence[Row]], random: Random) -> Iterator[Row]:
    frames = split_wordings(read_templates()["people"]["frames"])
    for row in chain.from_iterable(kept.values()):
        if row["label_set"] == FEELINGS:
            who, frame = random.choice(people()), random.choice(frames)
            yield row | {"text": frame.format(Who=who, who=inside(who), text=row["text"])}


def _retold(kept: Mapping[str, Sequence[Row]], random: Random) -> Iterator[Row]:
    """What reviewers tell of themselves, told of other people: "I loved it." becomes "Anna loved it."."""
    for row in chain.from_iterable(kept.values()):
        begin = _I_DID.match(row["text"])
        if row["label_set"] == FEELINGS and begin and not _FIRST_PERSON.search(row["text"], begin.end()):
            for person in random.sample(people(), PEOPLE_PER_RETOLD_SENTENCE):
                yield row | {"text": f"{person} {row['text'][begin.end() :]}"}


def inside(who: str) -> str:
    """A person inside a sentence: "the old man", "Anna"."""
    return who[0].lower() + who[1:] if who.startswith(("The ", "My ", "Our ")) else who


@cache
def people() -> list[str]:
    """Names, half of them invented, people of many countries, and others, as they begin a sentence."""
    lists = {name: split_wordings(text) for name, text in read_templates()["people"].items()}
    strangers = [f"The {people} {noun}" for people in lists["peoples"] for noun in lists["nouns"]]
    random = Random("strangers")
    invented = [_invented_name(random) for _ in range(INVENTED_NAMES)]
    names = len(invented) // len(lists["names"]) * lists["names"] + invented
    strangers = [random.choice(strangers) for _ in range(len(invented) // 2)]
    others = len(invented) // 2 // len(lists["others"]) * lists["others"]
    return [*names, *strangers, *others]


def _invented_name(random: Random) -> str:
    """A name that nobody has: what a name does not change must hold for names that were never read, too."""
    parts = read_templates()["parts_of_names"]
    syllables = (split_wordings(parts[place], " ") for place in ("starts", "middles", "ends"))
    start, middle, end = map(random.choice, syllables)
    return capitalized(start + middle + end)


def labelled_row(text: str, label: str, label_set: Sequence[str]) -> Row:
    """A row of the task analyze."""
    return {"task": "analyze", "text": text, "label": label, "label_set": list(label_set)}
