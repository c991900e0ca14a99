"""What English and Chinese exercises compute alike; they differ in words, names and separators."""

from collections.abc import Callable, Mapping, Sequence
from random import Random

from model.bundled_recipe.talk.exercise_words import Compute, WordLists
from model.bundled_recipe.talk.templates import Slots

Draw = Callable[[Random], list[str]]  # some words

# Numbers


def counted(first: int, last: int, separator: str) -> str:
    """The numbers from `first` to `last`, up or down."""
    step = 1 if last >= first else -1
    return separator.join(map(str, range(first, last + step, step)))


def count_from(random: Random, separator: str) -> Slots:
    a = random.randint(2, 30)
    b = a + random.randint(3, 8)
    return {"a": str(a), "b": str(b), "numbers": counted(a, b, separator)}


def two_numbers(random: Random) -> Slots:
    """Two different numbers and their order."""
    a, b = random.sample(range(1, 100), 2)
    return {"a": str(a), "b": str(b), "big": str(max(a, b)), "small": str(min(a, b))}


def sorted_numbers(random: Random, separator: str, descending: bool = False) -> Slots:
    """Three or four numbers, and the same in order."""
    numbers = random.sample(range(1, random.choice([10, 30, 100])), random.choice([3, 3, 4]))
    ordered = sorted(numbers, reverse=descending)
    return {"numbers": separator.join(map(str, numbers)), "sorted": separator.join(map(str, ordered))}


def add(random: Random) -> Slots:
    a, b = random.randint(1, 10), random.randint(1, 10)
    return {"a": str(a), "b": str(b), "sum": str(a + b)}


def double(random: Random) -> Slots:
    a = random.randint(1, 20)
    return {"a": str(a), "double": str(2 * a)}


def pick_number(random: Random) -> Slots:
    low, high = random.randint(1, 20), random.randint(25, 100)
    return {"low": str(low), "high": str(high), "pick": str(random.randint(low, high))}


# Words


def say_times(random: Random, words: WordLists, times: Mapping[str, int], separator: str) -> Slots:
    """A word said as often as one of the names in `times` says."""
    word, (name, n) = words.word(random, "words"), random.choice(list(times.items()))
    return {"word": word, "times": name, "repeated": separator.join([word] * n)}


def extreme_word(random: Random, draw: Draw, separator: str, place: int) -> Slots:
    """Words and the shortest (`place` 0) or longest (-1) of them, which has a length of its own."""
    while True:
        words = sorted(draw(random), key=len)
        lengths = list(map(len, words))
        if lengths.count(lengths[place]) == 1:
            return {"words": separator.join(random.sample(words, len(words))), "word": words[place]}


def reversed_words(words: Sequence[str], separator: str) -> Slots:
    return {"words": separator.join(words), "reversed": separator.join(reversed(words))}


def odd_one(random: Random, things: str, same: list[str], odd: str, separator: str) -> Slots:
    """Words of one kind, and an odd one among them."""
    words = random.sample([*same, odd], len(same) + 1)
    return {"words": separator.join(words), "odd": odd, "things": things}


def pattern(random: Random, words: list[str], separator: str) -> Slots:
    """The words in turn, and which one comes next."""
    shown = (words * 3)[: random.randint(len(words) + 2, 2 * len(words) + 1)]
    return {"shown": separator.join(shown), "next": words[len(shown) % len(words)]}


def blank(random: Random, words: WordLists, mark: str) -> Slots:
    """A sentence with a `mark` where a word is missing."""
    gap, word = words.entry(random, "gaps")
    return {"gap": gap, "word": word, "full": gap.replace(mark, word)}


def choose(random: Random, words: WordLists) -> Slots:
    a, b = random.sample(words.entry(random, "pairs"), 2)
    return {"a": a, "b": b, "chosen": random.choice([a, b])}


def translate_word(random: Random, words: WordLists, languages: Sequence[str], columns: Sequence[int]) -> Slots:
    """A word of the dictionary and its translation into the language of one of the `columns`."""
    forms, column = words.entry(random, "dictionary"), random.choice(columns)
    return {"word": forms[0], "target": forms[column], "language": languages[column]}


# Series


def neighbours_in(names: Sequence[str], slot: str) -> Compute:
    """The exercise about a name and those before and after it; the first follows the last."""

    def compute(random: Random) -> Slots:
        number = random.randrange(len(names))
        return {slot: names[number], "before": names[number - 1], "after": names[(number + 1) % len(names)]}

    return compute


def series(random: Random, members: Mapping[str, str]) -> Slots:
    """The name of a series and its members."""
    return dict(zip(("series", "all"), random.choice(list(members.items())), strict=True))
