"""More phrasings of the facts in the fact sources, from the templates in fact_phrasings_*.toml.

A small model answers a question it has not seen in these words only if it has seen the fact in many others.
"""

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar
from zlib import crc32

from model.bundled_recipe.chat_rows import capitalized, chat_row
from model.training.data.rows import Row

PRONOUNS = frozenset({"It", "Its home", "They", "它", "他", "她"})  # an answer about one of them does not say the fact
_ABBREVIATION, _TWO_STOPS = re.compile(r"\.[A-Z]$"), re.compile(r"(?<=[A-Z]\.)\.(?!\.)")
_CAPITALIZED = re.compile(r"[A-Z]\w+")

T = TypeVar("T")
Slots = dict[str, str]
Exchange = tuple[str, str]  # a question and its answer


@dataclass(frozen=True)
class FactType:
    """How one kind of fact is recognised and asked; `read_phrasings` gives the fields from the file."""

    name: str
    patterns: Sequence[str]
    asked: str = ""
    questions: Sequence[str] = ()
    topics: Sequence[str] = ()
    clauses: Sequence[str] = ()
    answers: Sequence[str] = ()
    pairs: Sequence[Sequence[str]] = ()
    per_fact: int = 14
    lower: Sequence[str] = ()  # slots that hold common words, with which answers may begin
    case_matters: bool = False
    leads: bool = True
    follow_up: bool = False  # "And Spain?" asks for another fact of the type

    @cached_property
    def _compiled(self) -> tuple[re.Pattern[str], list[re.Pattern[str]]]:
        return re.compile(self.asked), [re.compile(pattern) for pattern in self.patterns]

    def match(self, question: str, answer: str) -> Slots | None:
        """Return the slots of the fact that question and answer state, None where it is not of this type."""
        asked, patterns = self._compiled
        in_answer = next((found for pattern in patterns if (found := pattern.fullmatch(answer))), None)
        if in_answer is None or (in_question := asked.search(question)) is None:
            return None
        slots = {name: _complete(value) for name, value in (in_question.groupdict() | in_answer.groupdict()).items()}
        if not PRONOUNS.isdisjoint(slots.values()):
            return None
        return slots | {name: slots[name][:1].lower() + slots[name][1:] for name in self.lower}


@dataclass(frozen=True)
class Phrasings:
    """The templates of one language. A type of `fallbacks` is tried where none of `types` knows a row."""

    types: Sequence[FactType]
    fallbacks: Sequence[FactType]
    base_question: re.Pattern[str]  # a question of the facts file without what surrounds it
    topic_frames: Sequence[str]
    clause_frames: Sequence[str]
    leads: Sequence[str]
    marks: Sequence[str]  # the full stop and the question mark
    imperative: re.Pattern[str]  # what begins a question that ends with a full stop
    small_words: frozenset[str]  # that may begin a question with a small letter after a lead
    number_words: Sequence[str]
    greetings: Sequence[Exchange]
    follow_ups: Sequence[str]
    frames_per_phrase: int = 2  # of all frames for a topic or clause

    def facts(self, rows: Iterable[Row]) -> dict[str, list[Slots]]:
        """Return the distinct facts of the rows by the name of their type."""
        found: dict[str, dict[tuple[str, ...], Slots]] = defaultdict(dict)
        for question, answer in dict.fromkeys(map(self._exchange, rows)):
            known = self._matches(self.types, question, answer) or self._matches(self.fallbacks, question, answer)
            for name, slots in known:
                found[name].setdefault(tuple(slots[slot] for slot in sorted(slots)), slots)
        return {name: list(facts.values()) for name, facts in found.items()}

    def _exchange(self, row: Row) -> Exchange:
        question, answer = (message["content"] for message in row["messages"][:2])
        base = self.base_question.fullmatch(question)
        return self._marked(base["question"] if base else question), answer

    def _marked(self, question: str) -> str:
        """The question with a small letter where it may have one, and with an end mark."""
        question = self._inside(question)
        if question.endswith(tuple(self.marks)):
            return question
        return question + self.marks[0 if self.imperative.match(question) else 1]

    def _inside(self, question: str) -> str:
        """The question as it stands inside a sentence."""
        first_word = question.split(" ", 1)[0].lower().removesuffix("'s")
        return question[:1].lower() + question[1:] if first_word in self.small_words else question

    @staticmethod
    def _matches(types: Iterable[FactType], question: str, answer: str) -> list[tuple[str, Slots]]:
        matches = ((fact_type.name, fact_type.match(question, answer)) for fact_type in types)
        return [(name, slots) for name, slots in matches if slots is not None]

    def exchanges(self, fact_type: FactType, slots: Slots) -> tuple[list[Exchange], list[Exchange]]:
        """Return the plain questions for one fact with their answers, and the pairs that have their own."""
        framed = [*self._framed(fact_type.topics, self.topic_frames, slots)]
        framed += self._framed(fact_type.clauses, self.clause_frames, slots)
        questions = _filled([*fact_type.questions, *framed], slots)
        answers = list(_filled(fact_type.answers, slots))
        plain = [(question, _pick(answers, question)) for question in questions] if answers else []
        pairs = [tuple(_filled(pair, slots)) for pair in fact_type.pairs]
        return plain, [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]

    def _framed(self, phrases: Sequence[str], frames: Sequence[str], slots: Slots) -> Iterator[str]:
        for phrase in phrases:
            for frame in _ranked(frames, phrase, slots["x"])[: self.frames_per_phrase]:
                yield frame.replace("{it}", phrase)

    def styled(self, question: str, fact_type: FactType) -> str:
        """Put a third of the questions after a lead; leave out some end marks and capital letters."""
        number = _hash("style", question)
        if number % 3 == 0 and fact_type.leads:
            lead = _pick(self.leads, question)
            question = lead.replace("{it}", self._inside(question)).replace("{It}", question)
        if number // 3 % 4 == 0 and not question.endswith("..."):
            question = question.rstrip("".join(self.marks))
        if number // 12 % 8 == 0 and not fact_type.case_matters:
            question = question.lower()
        return question

    def derived(self, slots: Slots) -> Slots:
        """Words of small numbers, numbers above one as `_many`, the one after the answer, X and the article of x."""
        numbers = {name: int(value) for name, value in slots.items() if value.isdecimal() and len(value) < 9}
        words = {f"{name}_word": self.number_words[n] for name, n in numbers.items() if n < len(self.number_words)}
        words |= {f"{name}_many": str(n) for name, n in numbers.items() if n > 1}  # to stand before a plural
        words |= {"X": capitalized(slots["x"]), "a": "an" if slots["x"][:1] in "aeiou" else "a"}
        return words | ({"y_next": str(numbers["y"] + 1)} if "y" in numbers else {})


@cache
def read_phrasings(language: str) -> Phrasings:
    """Read the templates of a language, "en" or "zh"."""
    path = Path(__file__).with_name(f"fact_phrasings_{language}.toml")
    tables: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    for kind in ("types", "fallbacks"):
        tables[kind] = [FactType(**table) for table in tables[kind]]
    for pattern in ("base_question", "imperative"):
        tables[pattern] = re.compile(tables[pattern], re.IGNORECASE)
    tables["small_words"] = frozenset(tables["small_words"])
    return Phrasings(**tables)


def fact_phrasing_rows(kept: Mapping[str, Sequence[Row]], language: str) -> Iterator[Row]:
    """Yield chat rows that ask the facts of all kept rows in other words, some of them as a second turn."""
    phrasings = read_phrasings(language)
    yield from fact_rows(phrasings, phrasings.facts(row for rows in kept.values() for row in rows))


def fact_rows(phrasings: Phrasings, facts: Mapping[str, Sequence[Slots]]) -> Iterator[Row]:
    """Yield the rows that ask the facts given by the name of their type."""
    earlier: list[Exchange] = []
    for fact_type in (*phrasings.types, *phrasings.fallbacks):
        yield from _rows_of_type(phrasings, fact_type, facts.get(fact_type.name, []), earlier)


def _rows_of_type(
    phrasings: Phrasings, fact_type: FactType, facts: Sequence[Slots], earlier: list[Exchange]
) -> Iterator[Row]:
    """Yield the rows for all facts of a type; add one exchange of each to those that may come `earlier` in a chat."""
    before: Exchange | None = None
    for slots in _with_others(facts):
        plain, pairs = phrasings.exchanges(fact_type, slots | phrasings.derived(slots))
        if fact_type.follow_up and before and plain:
            follow_up = _pick(phrasings.follow_ups, *slots.values()).format_map(slots)
            yield chat_row([*before, capitalized(follow_up), plain[0][1]])
        for exchange in _ranked([*plain, *pairs])[: fact_type.per_fact]:
            question, answer = phrasings.styled(exchange[0], fact_type), exchange[1]
            yield chat_row([*_turns_before(phrasings, question, earlier), question, answer])
        if plain:
            before = _pick(plain, *slots.values())
            earlier.append(before)


def _turns_before(phrasings: Phrasings, question: str, earlier: Sequence[Exchange]) -> Exchange | tuple[()]:
    """Of fourteen questions, one comes after a greeting, one after the last fact and one after any other fact."""
    number = _hash("turns", question) % 14
    if number == 0:
        return _pick(phrasings.greetings, question)
    if number > 2 or not earlier:
        return ()
    return earlier[-1] if number == 1 else _pick(earlier, question)


def _with_others(facts: Sequence[Slots]) -> Iterator[Slots]:
    """Yield the facts, each with the answer to another one as `other` unless that could be true of it, too."""
    answers = sorted({slots["y"] for slots in facts if "y" in slots})
    true: dict[str, set[str]] = defaultdict(set)
    for slots in facts:
        true[slots.get("x", "")].add(slots.get("y", ""))
    for slots in facts:
        other = _pick(answers, "other", *slots.values()) if answers else ""
        names = set(_CAPITALIZED.findall(other))
        fits = other and not any(
            other in y or y in other or names & set(_CAPITALIZED.findall(y)) for y in true[slots["x"]]
        )
        yield {**slots, "other": other} if fits else slots


def _filled(templates: Iterable[str], slots: Slots) -> Iterator[str]:
    """Yield the templates with their slots filled, without those that need a slot that is not there."""
    for template in templates:
        try:
            yield capitalized(_TWO_STOPS.sub("", template.format_map(slots)))
        except KeyError:
            continue


def _complete(value: str) -> str:
    """The value with the full stop of "D.C." that a pattern took for the end of the sentence."""
    return value + "." if _ABBREVIATION.search(value) else value


def _hash(*parts: str) -> int:
    """A number that depends on nothing but the texts, unlike hash()."""
    return crc32("\n".join(parts).encode()) >> 4  # the lowest bits of similar texts are alike


def _pick(options: Sequence[T], *key: str) -> T:
    return options[_hash("pick", *key) % len(options)]


def _ranked(options: Sequence[T], *key: str) -> list[T]:
    """The options in an order that depends on them and the key alone."""
    return sorted(options, key=lambda option: _hash("rank", str(option), *key))
