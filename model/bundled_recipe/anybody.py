"""Sentences about Tom told of anybody, each with the score that a model gives it on average over people.

    routelm serve --port 8000 &
    python -m model.bundled_recipe.anybody http://127.0.0.1:8000 DATA OUT

The parallel sentences tell thousands of things about a Tom. The sentiment should be the same whoever they are told of
(counterfactual data, arXiv 1807.11714). Nobody has labelled them, so a served model scores each sentence with several
people, and the mean is the share of its rows that get the label "positive".
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from random import Random
from statistics import mean
from typing import TypeVar

import httpx
from rich import print as show
from rich.progress import track

from model.bundled_recipe.labelled import FEELINGS, inside, labelled_row, people
from model.training.data.rows import Row, find_sources, read_source, write_training_source

SUBJECT = "Write rows for analyze: what the parallel sentences tell of a Tom, told of many people."
SOURCE = "analyze/anybody-en"
PARALLEL = ("translate/tatoeba-en-de", "translate/tatoeba-en-fr", "translate/tatoeba-en-zh")
SENTENCES = 9000
PEOPLE_ASKED_ABOUT = 4  # whose mean is the score of a sentence
ROWS_PER_SENTENCE = 6
TEXTS_PER_REQUEST = 16
_TOM = re.compile(r"\bTom\b")
_CALLED = re.compile(r"\bTom,|, Tom\b")  # spoken to, where "the old man" would not do
_OTHERS = re.compile(r"\b(?:Mary|John|Alice|he|she|him|her|his|hers|himself|herself|Mr|Mrs|Ms|Dr)\b", re.IGNORECASE)

Item = TypeVar("Item")
Scores = Callable[[Sequence[str]], list[float]]  # the probability of "positive" of each text


def sentences_about_tom(rows: Iterable[Row]) -> list[str]:
    """The English sentences about one Tom and nobody else, with a slot in his place."""
    texts = dict.fromkeys(row["source"] if row["source_lang"] == "en" else row["target"] for row in rows)
    return [_TOM.sub("{}", text) for text in texts if _is_about_tom_alone(text) and "{" not in text]


def _is_about_tom_alone(text: str) -> bool:
    return len(_TOM.findall(text)) == 1 and not _OTHERS.search(text) and not _CALLED.search(text)


def told_of(sentence: str, person: str) -> str:
    """
    >>> told_of("I saw {} yesterday.", "The old man")
    'I saw the old man yesterday.'
    """
    return sentence.format(person if sentence.startswith("{}") else inside(person))


def anybody_rows(sentences: Sequence[str], scores: Scores) -> Iterator[Row]:
    """Yield ROWS_PER_SENTENCE rows of each sentence. As many of them are positive as its mean score says."""
    random = Random("anybody")
    asked = [told_of(s, person) for s in sentences for person in random.sample(people(), PEOPLE_ASKED_ABOUT)]
    for sentence, found in zip(sentences, _groups(scores(asked), PEOPLE_ASKED_ABOUT), strict=True):
        positive = int(ROWS_PER_SENTENCE * mean(found) + random.random())
        for number, person in enumerate(random.sample(people(), ROWS_PER_SENTENCE)):
            yield labelled_row(told_of(sentence, person), FEELINGS[number >= positive], FEELINGS)


def _groups(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def served_scores(client: httpx.Client, texts: Sequence[str]) -> list[float]:
    """What the served model says of each text. httpx.HTTPError where it does not answer."""
    found: list[float] = []
    for some in track(_groups(texts, TEXTS_PER_REQUEST), "scoring"):
        answer = client.post("/v1/analyze", json={"text": some, "labels": FEELINGS}).raise_for_status()
        found += [result["scores"]["positive"] for result in answer.json()["results"]]
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m model.bundled_recipe.anybody", description=SUBJECT)
    parser.add_argument("url", help="where the model is served")
    parser.add_argument("data", type=Path, help="directory of JSON Lines files: see docs/training.md")
    parser.add_argument("out", type=Path, help="directory for the new file, which may be that of the data")
    chosen = parser.parse_args(arguments)
    parallel = (read_source(source) for source in find_sources(chosen.data, "train") if source.name in PARALLEL)
    sentences = sentences_about_tom(chain.from_iterable(parallel))
    some = Random("sentences").sample(sentences, min(SENTENCES, len(sentences)))
    with httpx.Client(base_url=chosen.url, timeout=60) as client:
        try:
            rows = list(anybody_rows(some, partial(served_scores, client)))
        except httpx.HTTPError as error:
            sys.exit(f"no scores from {chosen.url}: {error}")
    path, count = write_training_source(chosen.out, SOURCE, rows)
    show(f"{path}: {count:,} texts")


if __name__ == "__main__":
    main()
