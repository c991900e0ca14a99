"""English exercises: each function fills the slots of the templates of its name in exercises.toml."""

from random import Random

from model.bundled_recipe.talk.exercise_words import (
    Compute,
    counted,
    entry_of,
    read_table,
    sorted_numbers,
    two_numbers,
)
from model.bundled_recipe.talk.templates import Slots

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = ["January", "February", "March", "April", "May", "June"]
MONTHS += ["July", "August", "September", "October", "November", "December"]
SERIES = {
    "days of the week": ", ".join(DAYS),
    "months of the year": ", ".join(MONTHS),
    "four seasons": "Spring, summer, autumn, winter",
    "vowels": "A, E, I, O, U",
    "numbers from one to ten": ", ".join(NUMBERS[1:11]),
    "five senses": "Sight, hearing, smell, taste and touch",
    "planets": "Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus, Neptune",
    "first five letters of the alphabet": "A, B, C, D, E",
    "seven colours of the rainbow": "Red, orange, yellow, green, blue, indigo, violet",
    "four directions": "North, east, south, west",
}
# Kinds of which one is part of the other, or that share words: no contrast.
_OVERLAPPING = (
    {"animal", "bird", "insect"},
    {"flower", "tree"},
    {"toy", "vehicle", "instrument", "sport"},
    {"country", "city"},
    {"fruit", "tree", "colour"},
    {"flower", "colour"},
)


def large(text: str) -> str:
    """The text with its first letter large."""
    return text[0].upper() + text[1:]


def with_article(word: str) -> str:
    """ "a cat", "an apple"."""
    return ("an " if word[0] in "aeiou" else "a ") + word


def any_word(random: Random) -> str:
    return entry_of(random, "en", "words")[0]


def sentence(random: Random) -> str:
    """A short sentence such as "My sister reads a long book."."""
    verb, _, past, rest = entry_of(random, "en", "verb_phrases")
    return f"{entry_of(random, 'en', 'subjects')[0]} {random.choice([verb, past])} {rest}."


def _kinds(random: Random, table: str | None = None) -> tuple[str, str, list[str], bool]:
    """A kind of thing: its name, the plural, its words, and whether they take an article."""
    tables = [table] if table else ["countable", "countable", "uncountable"]
    chosen = random.choice(tables)
    (name, words) = random.choice(list(read_table("en", chosen).items()))
    singular, plural = name.split("/")
    return singular, plural, [word for (word,) in words], chosen == "countable"


def _other_kind(random: Random, kind: str) -> tuple[str, str, list[str], bool]:
    while True:
        other = _kinds(random)
        if other[0] != kind and not any({kind, other[0]} <= group for group in _OVERLAPPING):
            return other


def _word_slots(word: str) -> Slots:
    return {"word": word, "Word": large(word), "UPPER": word.upper()}


def _several_words(random: Random, lowest: int = 3, highest: int = 4) -> list[str]:
    words = [word for (word,) in read_table("en", "lists")["words"]]
    return random.sample(words, random.randint(lowest, highest))


def say(random: Random) -> Slots:
    return _word_slots(any_word(random))


def repeat(random: Random) -> Slots:
    return {"sentence": sentence(random)}


def say_times(random: Random) -> Slots:
    word, (times, n) = any_word(random), random.choice([("twice", 2), ("three times", 3), ("four times", 4)])
    return {"word": word, "times": times, "repeated": large(", ".join([word] * n))}


def count_to(random: Random) -> Slots:
    n = random.choice([*range(3, 21), 5, 10, 10, 7, 8])
    return {"n": str(n) if n > 12 or random.random() < 0.6 else NUMBERS[n], "numbers": counted(1, n, ", ")}


def count_from(random: Random) -> Slots:
    a = random.randint(2, 30)
    b = a + random.randint(3, 8)
    return {"a": str(a), "b": str(b), "numbers": counted(a, b, ", ")}


def count_down(random: Random) -> Slots:
    n = random.randint(3, 12)
    return {"n": random.choice([str(n), NUMBERS[n]]), "numbers": counted(n, 1, ", ")}


def list_things(random: Random) -> Slots:
    _, plural, words, _ = _kinds(random)
    n = min(random.choice([2, 3, 3, 3, 4, 5, 5]), len(words))
    *most, last = random.sample(words, n)
    number = random.choice([str(n), NUMBERS[n]])
    return {"n": number, "things": plural, "List": large(f"{', '.join(most)} and {last}")}


def name_one(random: Random) -> Slots:
    kind, _, words, _ = _kinds(random)
    return {"a_thing": with_article(kind), "Word": large(random.choice(words))}


def upper_sentence(random: Random) -> Slots:
    text = sentence(random)
    return {"sentence": text, "UPPER": text.upper()}


def spell(random: Random) -> Slots:
    word = any_word(random)
    return {"word": word, "letters": "-".join(word.upper())}


def letters_in(random: Random) -> Slots:
    word = any_word(random)
    return _word_slots(word) | {"n": str(len(word))}


def ends_of_word(random: Random) -> Slots:
    word = any_word(random)
    return {"word": word, "first": word[0].upper(), "last": word[-1].upper()}


def words_of_sentence(random: Random) -> Slots:
    text = sentence(random)
    words = text.rstrip(".").split()
    n = NUMBERS[len(words)]
    return {"sentence": text, "n": n, "N": large(n), "first": words[0], "last": words[-1], "Last": large(words[-1])}


def longest_word(random: Random) -> Slots:
    while True:
        words = sorted(_several_words(random), key=len)
        if len(words[-2]) < len(words[-1]):
            return _shuffled(random, words, words[-1])


def shortest_word(random: Random) -> Slots:
    while True:
        words = sorted(_several_words(random), key=len)
        if len(words[0]) < len(words[1]):
            return _shuffled(random, words, words[0])


def _shuffled(random: Random, words: list[str], chosen: str) -> Slots:
    return {"words": ", ".join(random.sample(words, len(words)))} | _word_slots(chosen)


def reverse(random: Random) -> Slots:
    words = _several_words(random, 3, 3)
    return {"words": ", ".join(words), "Reversed": large(", ".join(reversed(words)))}


def sort_words(random: Random) -> Slots:
    words = _several_words(random)
    return {"words": ", ".join(words), "Sorted": large(", ".join(sorted(words)))}


def sort_numbers(random: Random) -> Slots:
    return sorted_numbers(random, ", ")


def sort_down(random: Random) -> Slots:
    return sorted_numbers(random, ", ", descending=True)


def is_bigger(random: Random) -> Slots:
    slots = two_numbers(random)
    yes = slots["a"] == slots["big"]
    answer = f"{'Yes' if yes else 'No'}, {slots['a']} is {'bigger' if yes else 'smaller'} than {slots['b']}."
    return slots | {"yes_bigger": answer}


def even(random: Random) -> Slots:
    a = random.randint(1, 99)
    kind = "odd" if a % 2 else "even"
    return {"a": str(a), "kind": kind, "Kind": large(kind)}


def neighbours(random: Random) -> Slots:
    a = random.randint(2, 98)
    return {"a": str(a), "b": str(a), "next": str(a + 1), "before": str(a - 1)}


def add(random: Random) -> Slots:
    a, b = random.randint(1, 10), random.randint(1, 10)
    return {"a": str(a), "b": str(b), "sum": str(a + b)}


def odd_one(random: Random) -> Slots:
    kind, plural, words, _ = _kinds(random)
    odd = random.choice(_other_kind(random, kind)[2])
    same = random.sample(words, min(random.choice([2, 3, 3]), len(words)))
    return {"words": ", ".join(random.sample([*same, odd], len(same) + 1)), "Odd": large(odd), "things": plural}


def category(random: Random) -> Slots:
    kind, plural, words, has_article = _kinds(random)
    kind2, plural2, _, _ = _other_kind(random, kind)
    word = random.choice(words)
    a_word = with_article(word) if has_article else word
    return {
        **_word_slots(word),
        "a_word": a_word,
        "A_word": large(a_word),
        "a_kind": with_article(kind),
        "a_kind2": with_article(kind2),
        "kind_things": plural,
        "kind_things2": plural2,
    }


def opposite(random: Random) -> Slots:
    word, other = random.sample(entry_of(random, "en", "opposites"), 2)
    return {"word": word, "other": other, "Other": large(other)}


def plural(random: Random) -> Slots:
    word, many = entry_of(random, "en", "plurals")
    return {"word": word, "Word": large(word), "plural": many, "Plural": large(many)}


def past(random: Random) -> Slots:
    word, before = entry_of(random, "en", "pasts")
    return {"word": word, "past": before, "Past": large(before)}


def rhyme(random: Random) -> Slots:
    word, other = random.sample(entry_of(random, "en", "rhymes"), 2)
    return {"word": word, "Other": large(other)}


def synonym(random: Random) -> Slots:
    word, other = random.sample(entry_of(random, "en", "synonyms"), 2)
    return {"word": word, "other": other, "Other": large(other)}


def adjective_forms(random: Random) -> Slots:
    word, more, most = entry_of(random, "en", "comparatives")
    return {"word": word, "Word": large(word), "more": more, "More": large(more), "most": most}


def proverb(random: Random) -> Slots:
    start, end = entry_of(random, "en", "proverbs")
    return {"start": start, "end": end}


def complete(random: Random) -> Slots:
    start, end = entry_of(random, "en", "starts")
    return {"start": start, "end": end}


def blank(random: Random) -> Slots:
    gap, word = entry_of(random, "en", "gaps")
    return {"gap": gap, "Word": large(word), "full": gap.replace("___", word)}


def sentence_with(random: Random) -> Slots:
    kind, templates = random.choice(list(read_table("en", "sentences").items()))
    words = next(words for name, words in read_table("en", "countable").items() if name.startswith(kind + "/"))
    ((word,), (template,)) = random.choice(words), random.choice(templates)
    an = "n" if word[0] in "aeiou" else ""
    text = template.replace("a {word}", f"a{an} {word}").replace("A {word}", f"A{an} {word}").replace("{word}", word)
    return {"word": word, "a_word": with_article(word), "sentence": text}


def is_question(random: Random) -> Slots:
    asks = random.random() < 0.5
    text = entry_of(random, "en", "questions")[0] if asks else sentence(random)
    return {"text": text, "Answer": "Yes, this is a question." if asks else "No, this is a statement."}


def add_question_mark(random: Random) -> Slots:
    question = entry_of(random, "en", "questions")[0]
    return {"bare": question.rstrip("?"), "question": question}


def add_stop(random: Random) -> Slots:
    text = sentence(random)
    return {"bare": text.rstrip("."), "sentence": text}


def polite(random: Random) -> Slots:
    order, request = entry_of(random, "en", "orders")
    return {"order": order, "request": request}


def rewritten(random: Random) -> Slots:
    """A positive sentence with its negation, its question and its past."""
    who = entry_of(random, "en", "pronouns")[0]
    asked = who if who in ("Tom", "Anna", "Mary") else who[0].lower() + who[1:]
    if random.random() < 0.5:
        state = entry_of(random, "en", "states")[0]
        forms = f"{who} is {state}.", f"{who} is not {state}.", f"Is {asked} {state}?", f"{who} was {state}."
    else:
        now, plain, before, rest = entry_of(random, "en", "verb_phrases")
        forms = (
            f"{who} {now} {rest}.",
            f"{who} does not {plain} {rest}.",
            f"Does {asked} {plain} {rest}?",
            f"{who} {before} {rest}.",
        )
    return dict(zip(("positive", "negative", "question", "past"), forms, strict=True))


def join(random: Random) -> Slots:
    (who, other), ((now, _, _, rest), (now2, _, _, rest2)) = (
        random.sample([name for (name,) in read_table("en", "lists")["subjects"]], 2),
        random.sample(read_table("en", "lists")["verb_phrases"], 2),
    )
    one, two = f"{who} {now} {rest}", f"{other} {now2} {rest2}"
    return {"one": one + ".", "two": two + ".", "joined": f"{one}, and {two[0].lower() + two[1:]}."}


def _around(random: Random, names: list[str]) -> tuple[str, str, str]:
    number = random.randrange(len(names))
    return names[number], names[number - 1], names[(number + 1) % len(names)]


def days(random: Random) -> Slots:
    return dict(zip(("day", "before", "after"), _around(random, DAYS), strict=True))


def months(random: Random) -> Slots:
    return dict(zip(("month", "before", "after"), _around(random, MONTHS), strict=True))


def series(random: Random) -> Slots:
    name, members = random.choice(list(SERIES.items()))
    return {"series": name, "all": large(members)}


def note(random: Random) -> Slots:
    """To whom a note goes, and for what."""
    whom, called = entry_of(random, "en", "people")
    because = entry_of(random, "en", "reasons")[0]
    return {
        "whom": whom,
        "Whom": large(whom),
        "called": called,
        "Dear": f"Dear {called}",
        "gift": entry_of(random, "en", "gifts")[0],
        "event": entry_of(random, "en", "events")[0],
        "day": random.choice(DAYS),
        "because": because,
        "Because": large(because),
        "success": entry_of(random, "en", "successes")[0],
    }


def story_of(random: Random) -> Slots:
    hero, story = entry_of(random, "en", "heroes")
    return {"a_hero": with_article(hero), "story": story}


def something_that(random: Random) -> Slots:
    quality, things = entry_of(random, "en", "qualities")
    return {"quality": quality, "Thing": large(random.choice(things.split()))}


def yes_no_fact(random: Random) -> Slots:
    question, answer = entry_of(random, "en", "facts")
    return {"question": question, "Answer": answer}


# By the name of the template.
COMPUTE: dict[str, Compute] = {
    "say": say,
    "repeat": repeat,
    "say_times": say_times,
    "count_to": count_to,
    "count_from": count_from,
    "count_down": count_down,
    "list_things": list_things,
    "name_one": name_one,
    "upper": say,
    "upper_sentence": upper_sentence,
    "lower": say,
    "spell": spell,
    "letters_in": letters_in,
    "first_letter": ends_of_word,
    "last_letter": ends_of_word,
    "words_in": words_of_sentence,
    "first_word": words_of_sentence,
    "last_word": words_of_sentence,
    "longest_word": longest_word,
    "shortest_word": shortest_word,
    "reverse": reverse,
    "sort_words": sort_words,
    "sort_numbers": sort_numbers,
    "sort_down": sort_down,
    "bigger": two_numbers,
    "smaller": two_numbers,
    "is_bigger": is_bigger,
    "even": even,
    "next_number": neighbours,
    "previous_number": neighbours,
    "add": add,
    "odd_one": odd_one,
    "category": category,
    "is_kind": category,
    "is_not_kind": category,
    "which_kind": category,
    "opposite": opposite,
    "plural": plural,
    "singular": plural,
    "past": past,
    "rhyme": rhyme,
    "synonym": synonym,
    "adjective_forms": adjective_forms,
    "proverb": proverb,
    "complete": complete,
    "blank": blank,
    "sentence_with": sentence_with,
    "is_question": is_question,
    "add_question_mark": add_question_mark,
    "add_stop": add_stop,
    "polite": polite,
    "negative": rewritten,
    "question_of": rewritten,
    "past_sentence": rewritten,
    "join": join,
    "day_after": days,
    "day_before": days,
    "month_after": months,
    "month_before": months,
    "series": series,
    "greeting": note,
    "thanks": note,
    "birthday": note,
    "invitation": note,
    "apology": note,
    "get_well": note,
    "congratulate": note,
    "story_of": story_of,
    "something_that": something_that,
    "yes_no_fact": yes_no_fact,
}
