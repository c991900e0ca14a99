"""Exercises about sequences: of numbers, letters, days and months; and small sums."""

from collections.abc import Callable, Sequence
from random import Random
from string import ascii_uppercase

from model.bundled_recipe.talk.english.basics import DAYS, MONTHS, NUMBERS, SEPARATOR
from model.bundled_recipe.talk.exercise_words import Compute
from model.bundled_recipe.talk.templates import Slots

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def _joined(items: Sequence[object]) -> str:
    return SEPARATOR.join(map(str, items))


def _steps(random: Random, length: int) -> tuple[list[int], int]:
    """Numbers that rise or fall by the same step, and the step."""
    step = random.choice([1, 2, 2, 3, 4, 5, 5, 10, 10, 100])
    first = random.choice([0, step, step, random.randint(1, 20)])
    numbers = [first + step * n for n in range(length)]
    return (numbers[::-1], -step) if random.random() < 0.4 else (numbers, step)


def number_sequence(random: Random) -> Slots:
    """Numbers, those that come next, and the rule."""
    *shown, following, last = _steps(random, random.randint(5, 7))[0]
    step = following - shown[-1]
    name = f"Each number is {abs(step)} {'more' if step > 0 else 'less'} than the one before it."
    change = f"add {step}" if step > 0 else f"take away {-step}"
    two = f"{following} and {last}"
    return {"shown": _joined(shown), "next": str(following), "two": two, "rule": name, "change": change}


def missing_number(random: Random) -> Slots:
    """Numbers with a gap."""
    numbers = _steps(random, random.randint(4, 6))[0]
    gap = random.randrange(1, len(numbers) - 1)
    shown = [*numbers[:gap], "___", *numbers[gap + 1 :]]
    return {"shown": _joined(shown), "missing": str(numbers[gap]), "full": _joined(numbers)}


def count_by(random: Random) -> Slots:
    """Counting in steps: "twos", "fives"."""
    step, name = random.choice(
        [(2, "twos"), (3, "threes"), (5, "fives"), (10, "tens"), (4, "fours"), (100, "hundreds")]
    )
    last = step * random.randint(3, 10)
    return {"steps": name, "last": str(last), "numbers": _joined(range(step, last + 1, step))}


def ordinal(random: Random) -> Slots:
    """A number and its ordinal: "three", "third"."""
    place = random.randrange(len(_ORDINALS))
    return {"number": NUMBERS[place + 1], "ordinal": _ORDINALS[place]}


def letter_sequence(random: Random) -> Slots:
    """Letters of the alphabet, up or down in steps of one or two, and the next one."""
    letters = ascii_uppercase[:: random.choice([1, 1, 1, 2])][:: random.choice([1, 1, -1])]
    return _next_of(letters, random.randrange(len(letters) - 5), random.randint(3, 5))


def _next_of(items: Sequence[str], first: int, length: int) -> Slots:
    shown = [items[(first + n) % len(items)] for n in range(length)]
    return {"shown": _joined(shown), "next": items[(first + length) % len(items)]}


def _sequence_of(names: list[str]) -> Callable[[Random], Slots]:
    """The exercise about names in their order or backwards; the first follows the last."""

    def compute(random: Random) -> Slots:
        ordered = names[:: random.choice([1, 1, -1])]
        return _next_of(ordered, random.randrange(len(ordered)), random.randint(2, 4))

    return compute


def day_in(random: Random) -> Slots:
    """A day, and which day it is some days later and earlier."""
    day, days = random.randrange(7), random.randint(2, 4)
    later, earlier = DAYS[(day + days) % 7], DAYS[(day - days) % 7]
    return {"day": DAYS[day], "days": NUMBERS[days], "later": later, "earlier": earlier}


def month_number(random: Random) -> Slots:
    """A month and its place in the year."""
    number = random.randrange(10)
    return {"month": MONTHS[number], "ordinal": _ORDINALS[number], "n": str(number + 1)}


def subtract(random: Random) -> Slots:
    a = random.randint(2, 20)
    b = random.randint(1, a - 1)
    return {"a": str(a), "b": str(b), "difference": str(a - b)}


def multiply(random: Random) -> Slots:
    a, b = random.randint(2, 10), random.randint(2, 5)
    return {"a": str(a), "b": str(b), "product": str(a * b)}


COMPUTE: dict[str, Compute] = {
    "number_sequence": number_sequence,
    "next_two_numbers": number_sequence,
    "sequence_rule": number_sequence,
    "missing_number": missing_number,
    "count_by": count_by,
    "ordinal": ordinal,
    "letter_sequence": letter_sequence,
    "day_sequence": _sequence_of(DAYS),
    "month_sequence": _sequence_of(MONTHS),
    "day_later": day_in,
    "day_earlier": day_in,
    "month_number": month_number,
    "number_of_month": month_number,
    "subtract": subtract,
    "multiply": multiply,
}
