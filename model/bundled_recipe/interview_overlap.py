"""Keeps the interview out of the training data: no row asks one of its questions, or shares a run of words with one."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import chain

from model.evaluation.tasks.interview import read_questions
from model.training.data.rows import Row
from model.training.data.shingles import is_chinese, normalize

WORDS, CHARACTERS = 6, 10  # of a run
GREETINGS = frozenset({("hello",), ("hi",)})  # what everybody says in the same words

Run = tuple[str, ...]


def units_of(text: str) -> Sequence[str]:
    """The words of a text, or its characters where it is Chinese."""
    text = normalize(text)
    return text.replace(" ", "") if is_chinese(text) else text.split()


def runs(units: Sequence[str]) -> Iterator[Run]:
    """All runs of WORDS words, or of CHARACTERS characters of Chinese; a shorter text counts whole."""
    size = min(CHARACTERS if isinstance(units, str) else WORDS, len(units))
    return (tuple(units[start : start + size]) for start in range(len(units) - size + 1))


class Questions:
    """What is asked, to be looked up in many texts."""

    def __init__(self, texts: Iterable[str]) -> None:
        units = [units_of(text) for text in texts]
        counts = Counter(chain.from_iterable(units))
        self.runs = frozenset(chain.from_iterable(map(runs, units))) - GREETINGS
        # A text without any of them shares no run: one rare word, or character, of each run.
        self._rare = {min(run, key=lambda unit: (counts[unit], -len(unit))) for run in self.runs}

    def shared_with(self, text: str) -> frozenset[Run]:
        """The runs that the text has, too."""
        units = units_of(text)
        return frozenset() if self._rare.isdisjoint(units) else self.runs.intersection(runs(units))


@cache
def interview_questions() -> Questions:
    """Those of `routelm evaluate --interview`."""
    return Questions(turn for question in read_questions() for turn in question.turns)


def without_interview(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield the rows in which no user asks what the interview asks."""
    questions = interview_questions()
    for row in rows:
        asked = (message["content"] for message in row.get("messages", ()) if message["role"] == "user")
        if not any(map(questions.shared_with, asked)):
            yield row
