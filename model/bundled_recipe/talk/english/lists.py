"""Exercises about lists of words and of numbers."""

from random import Random

from model.bundled_recipe.chat_rows import capitalized
from model.bundled_recipe.talk.english.basics import (
    NUMBERS,
    SEPARATOR,
    WORDS,
    draw_kind,
    draw_other_kind,
    several_words,
    with_article,
)
from model.bundled_recipe.talk.exercise_words import Compute
from model.bundled_recipe.talk.templates import Slots

_PLACES = ("first", "second", "third", "fourth")


def places(random: Random) -> Slots:
    """Words, their number, the first and the last, one at a place, and the words as lines."""
    words = several_words(random, 3, 5)
    place = random.randrange(len(words[:4]))
    return {
        "words": SEPARATOR.join(words),
        "n": NUMBERS[len(words)],
        "place": _PLACES[place],
        "word": words[place],
        "ends": f"{words[0]} and {words[-1]}",
        "sentence": f"{', '.join(words[:-1])} and {words[-1]}",
        "bullets": "\n".join(f"- {word}" for word in words),
        "numbered": "\n".join(f"{number}. {word}" for number, word in enumerate(words, 1)),
    }


def change(random: Random) -> Slots:
    """Words, and the same without one of them and with another one."""
    *words, new = several_words(random, 4, 5)
    word = random.choice(words)
    return {
        "words": SEPARATOR.join(words),
        "word": word,
        "new": new,
        "rest": SEPARATOR.join(other for other in words if other != word),
        "longer": SEPARATOR.join([*words, new]),
        "swapped": SEPARATOR.join(new if other == word else other for other in words),
    }


def is_in_list(random: Random) -> Slots:
    *words, other = several_words(random, 4, 5)
    asked = random.choice([random.choice(words), other])
    answer = f"Yes, {asked} is in the list." if asked in words else f"No, {asked} is not in the list."
    return {"words": SEPARATOR.join(words), "word": asked, "answer": answer}


def twice(random: Random) -> Slots:
    """Words of which one comes twice."""
    words = several_words(random, 3, 4)
    word = random.choice(words)
    return {"words": SEPARATOR.join(random.sample([*words, word], len(words) + 1)), "word": word}


def extreme_numbers(random: Random) -> Slots:
    numbers = random.sample(range(1, random.choice([10, 30, 100])), random.choice([3, 4, 4]))
    return {"numbers": SEPARATOR.join(map(str, numbers)), "largest": str(max(numbers)), "smallest": str(min(numbers))}


def with_letter(random: Random) -> Slots:
    """A thing of a kind by its first letter."""
    kind = draw_kind(random)
    word = random.choice(kind.words)
    return {"kind": kind.name, "letter": word[0].upper(), "word": word}


def one_of_kind(random: Random) -> Slots:
    """Words of which only one is of a kind, and only one is not."""
    kind = draw_kind(random)
    other = draw_other_kind(random, kind)
    word, odd = random.choice(kind.words), random.choice(other.words)
    others = random.sample(other.words, min(random.choice([2, 3]), len(other.words)))
    same = random.sample(kind.words, min(random.choice([2, 3]), len(kind.words)))
    return {
        "words": SEPARATOR.join(random.sample([word, *others], len(others) + 1)),
        "mixed": SEPARATOR.join(random.sample([odd, *same], len(same) + 1)),
        "word": word,
        "a_word": with_article(word) if kind.has_article else word,
        "odd": odd,
        "an_odd": with_article(odd) if other.has_article else odd,
        "kind": kind.name,
        "other": other.name,
    }


def common_kind(random: Random) -> Slots:
    """Words and the kind that they share."""
    kind = draw_kind(random)
    words = random.sample(kind.words, min(random.choice([2, 3, 3]), len(kind.words)))
    shown = f"{', '.join(words[:-1])} and {words[-1]}"
    return {"words": shown, "start": capitalized(shown), "things": kind.plural}


def compound(random: Random) -> Slots:
    one, two = WORDS.entry(random, "compounds")
    return {"one": one, "two": two, "word": one + two}


COMPUTE: dict[str, Compute] = {
    "nth_item": places,
    "count_items": places,
    "ends_of_list": places,
    "bullets": places,
    "numbered": places,
    "list_sentence": places,
    "remove_item": change,
    "add_item": change,
    "swap_item": change,
    "is_in_list": is_in_list,
    "twice": twice,
    "largest_number": extreme_numbers,
    "smallest_number": extreme_numbers,
    "with_letter": with_letter,
    "only_one": one_of_kind,
    "not_a_kind": one_of_kind,
    "common_kind": common_kind,
    "compound": compound,
    "split_compound": compound,
}
