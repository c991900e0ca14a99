"""English exercises on words and numbers: COMPUTE has the function that fills the slots of a template."""

from functools import cache, partial
from random import Random
from typing import NamedTuple

from model.bundled_recipe.chat_rows import capitalized
from model.bundled_recipe.talk import exercises
from model.bundled_recipe.talk.exercise_words import Compute, WordLists, read_table
from model.bundled_recipe.talk.templates import Slots

SEPARATOR = ", "
WORDS = WordLists("en")
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
LANGUAGES = ("English", "German", "French", "Chinese")  # as the dictionary has them
TIMES = {"twice": 2, "three times": 3, "four times": 4}
# Kinds of which one is part of the other, or that share words: no contrast.
_OVERLAPPING = (
    {"animal", "bird", "insect"},
    {"flower", "tree"},
    {"toy", "vehicle", "instrument", "sport"},
    {"country", "city"},
    {"fruit", "tree", "colour"},
    {"flower", "colour"},
)


class Kind(NamedTuple):
    """A kind of thing: its name and plural, its words, and whether they take an article."""

    name: str
    plural: str
    words: list[str]
    has_article: bool


def with_article(word: str) -> str:
    """ "a cat", "an apple"."""
    return ("an " if word[0] in "aeiou" else "a ") + word


def sentence(random: Random) -> str:
    """A short sentence such as "My sister reads a long book."."""
    verb, _, past, rest = WORDS.entry(random, "verb_phrases")
    return f"{WORDS.word(random, 'subjects')} {random.choice([verb, past])} {rest}."


@cache
def _kinds(table: str) -> list[Kind]:
    named = ((name.split("/"), words) for name, words in read_table("en", table).items())
    return [Kind(one, many, [word for (word,) in words], table == "countable") for (one, many), words in named]


def draw_kind(random: Random) -> Kind:
    """A random kind of thing."""
    return random.choice(_kinds(random.choice(["countable", "countable", "uncountable"])))


def draw_other_kind(random: Random, kind: Kind) -> Kind:
    """A kind that has nothing in common with `kind`."""
    while True:
        other = draw_kind(random)
        if other.name != kind.name and not any({kind.name, other.name} <= group for group in _OVERLAPPING):
            return other


def several_words(random: Random, lowest: int = 3, highest: int = 4) -> list[str]:
    """Some different words."""
    return random.sample(WORDS.words("words"), random.randint(lowest, highest))


def say(random: Random) -> Slots:
    word = WORDS.word(random, "words")
    return {"word": word, "UPPER": word.upper()}


def count_to(random: Random) -> Slots:
    n = random.choice([*range(3, 21), 5, 10, 10, 7, 8])
    name = str(n) if n > 12 or random.random() < 0.6 else NUMBERS[n]
    return {"n": name, "numbers": exercises.counted(1, n, SEPARATOR)}


def count_down(random: Random) -> Slots:
    n = random.randint(3, 12)
    return {"n": random.choice([str(n), NUMBERS[n]]), "numbers": exercises.counted(n, 1, SEPARATOR)}


def list_things(random: Random) -> Slots:
    kind = draw_kind(random)
    n = min(random.choice([2, 3, 3, 3, 4, 5, 5]), len(kind.words))
    *most, last = random.sample(kind.words, n)
    return {"n": random.choice([str(n), NUMBERS[n]]), "things": kind.plural, "list": f"{', '.join(most)} and {last}"}


def name_one(random: Random) -> Slots:
    kind = draw_kind(random)
    return {"kind": kind.name, "word": random.choice(kind.words)}


def sentence_forms(random: Random) -> Slots:
    text = sentence(random)
    return {"sentence": text, "UPPER": text.upper(), "bare": text.rstrip(".")}


def letters_of_word(random: Random) -> Slots:
    word = WORDS.word(random, "words")
    letters = word.upper()
    return {"word": word, "letters": "-".join(letters), "n": str(len(word)), "first": letters[0], "last": letters[-1]}


def words_of_sentence(random: Random) -> Slots:
    text = sentence(random)
    words = text.rstrip(".").split()
    return {"sentence": text, "n": NUMBERS[len(words)], "first": words[0], "last": words[-1]}


def reverse(random: Random) -> Slots:
    return exercises.reversed_words(several_words(random, 3, 3), SEPARATOR)


def sort_words(random: Random) -> Slots:
    words = several_words(random)
    return {"words": SEPARATOR.join(words), "sorted": SEPARATOR.join(sorted(words))}


def is_bigger(random: Random) -> Slots:
    slots = exercises.two_numbers(random)
    yes = slots["a"] == slots["big"]
    answer = f"{'Yes' if yes else 'No'}, {slots['a']} is {'bigger' if yes else 'smaller'} than {slots['b']}."
    return slots | {"yes_bigger": answer}


def even(random: Random) -> Slots:
    a = random.randint(1, 99)
    return {"a": str(a), "kind": "odd" if a % 2 else "even"}


def neighbours(random: Random) -> Slots:
    a = random.randint(2, 98)
    return {"a": str(a), "b": str(a), "next": str(a + 1), "before": str(a - 1)}


def odd_one(random: Random) -> Slots:
    kind = draw_kind(random)
    odd = random.choice(draw_other_kind(random, kind).words)
    same = random.sample(kind.words, min(random.choice([2, 3, 3]), len(kind.words)))
    return exercises.odd_one(random, kind.plural, same, odd, SEPARATOR)


def category(random: Random) -> Slots:
    kind = draw_kind(random)
    other = draw_other_kind(random, kind)
    word = random.choice(kind.words)
    return {
        "word": word,
        "a_word": with_article(word) if kind.has_article else word,
        "kind": kind.name,
        "kind2": other.name,
        "kind_things": kind.plural,
        "kind_things2": other.plural,
    }


def sentence_with(random: Random) -> Slots:
    kind, templates = random.choice(list(read_table("en", "sentences").items()))
    words = next(words for name, words in read_table("en", "countable").items() if name.startswith(kind + "/"))
    ((word,), (template,)) = random.choice(words), random.choice(templates)
    a_word = with_article(word)
    text = template.replace("a {word}", a_word).replace("A {word}", capitalized(a_word)).replace("{word}", word)
    return {"word": word, "sentence": text}


def is_question(random: Random) -> Slots:
    asks = random.random() < 0.5
    text = WORDS.word(random, "questions") if asks else sentence(random)
    return {"text": text, "answer": "Yes, this is a question." if asks else "No, this is a statement."}


def add_question_mark(random: Random) -> Slots:
    question = WORDS.word(random, "questions")
    return {"bare": question.rstrip("?"), "question": question}


def rewritten(random: Random) -> Slots:
    """A positive sentence with its negation, its question and its past."""
    who = WORDS.word(random, "pronouns")
    asked = who if who in ("Tom", "Anna", "Mary") else who[0].lower() + who[1:]
    if random.random() < 0.5:
        state = WORDS.word(random, "states")
        forms = f"{who} is {state}.", f"{who} is not {state}.", f"Is {asked} {state}?", f"{who} was {state}."
    else:
        now, plain, before, rest = WORDS.entry(random, "verb_phrases")
        forms = (
            f"{who} {now} {rest}.",
            f"{who} does not {plain} {rest}.",
            f"Does {asked} {plain} {rest}?",
            f"{who} {before} {rest}.",
        )
    return dict(zip(("positive", "negative", "question", "past"), forms, strict=True))


def join(random: Random) -> Slots:
    who, other = random.sample(WORDS.words("subjects"), 2)
    (now, _, _, rest), (now2, _, _, rest2) = random.sample(WORDS.entries("verb_phrases"), 2)
    one, two = f"{who} {now} {rest}", f"{other} {now2} {rest2}"
    return {"one": one + ".", "two": two + ".", "joined": f"{one}, and {two[0].lower() + two[1:]}."}


def note(random: Random) -> Slots:
    """To whom a note goes, and for what."""
    whom, called = WORDS.entry(random, "people")
    what = WORDS.one_of_each(because="reasons", gift="gifts", event="events")(random)
    return what | {
        "whom": whom,
        "called": called,
        "day": random.choice(DAYS),
        "success": WORDS.word(random, "successes"),
    }


def something_that(random: Random) -> Slots:
    quality, things = WORDS.entry(random, "qualities")
    return {"quality": quality, "thing": random.choice(things.split())}


def number_word(random: Random) -> Slots:
    n = random.randrange(len(NUMBERS))
    return {"digits": str(n), "name": NUMBERS[n]}


def alphabet(random: Random) -> Slots:
    letter = random.choice("ABCDEFGHIJKLMNOPQRSTUVWXY")
    return {"letter": letter, "after": chr(ord(letter) + 1)}


def replace_word(random: Random) -> Slots:
    text = sentence(random)
    old, new = text.rstrip(".").split()[-1], WORDS.word(random, "words")
    return {"old": old, "new": new, "sentence": text, "changed": f"{text.removesuffix(old + '.')}{new}."}


def put_together(random: Random) -> Slots:
    """The parts of "Tom plays the piano." in another order."""
    who = WORDS.word(random, "pronouns")
    now, _, _, rest = WORDS.entry(random, "verb_phrases")
    parts = random.sample([who, now, rest], 3)
    return {"mixed": SEPARATOR.join(parts), "sentence": f"{who} {now} {rest}."}


def pattern(random: Random) -> Slots:
    return exercises.pattern(random, several_words(random, 2, 3), SEPARATOR)


def poem(random: Random) -> Slots:
    thing, lines = WORDS.entry(random, "poems")
    unique = thing in ("moon", "sea", "rain", "winter", "night", "snow", "spring", "summer", "autumn", "sun")
    return {"a_thing": f"the {thing}" if unique else with_article(thing), "poem": lines}


# By the name of the template.
COMPUTE: dict[str, Compute] = {
    "say": say,
    "repeat": sentence_forms,
    "say_times": partial(exercises.say_times, words=WORDS, times=TIMES, separator=SEPARATOR),
    "count_to": count_to,
    "count_from": partial(exercises.count_from, separator=SEPARATOR),
    "count_down": count_down,
    "list_things": list_things,
    "name_one": name_one,
    "upper": say,
    "upper_sentence": sentence_forms,
    "lower": say,
    "spell": letters_of_word,
    "letters_in": letters_of_word,
    "first_letter": letters_of_word,
    "last_letter": letters_of_word,
    "words_in": words_of_sentence,
    "first_word": words_of_sentence,
    "last_word": words_of_sentence,
    "longest_word": partial(exercises.extreme_word, draw=several_words, separator=SEPARATOR, place=-1),
    "shortest_word": partial(exercises.extreme_word, draw=several_words, separator=SEPARATOR, place=0),
    "reverse": reverse,
    "sort_words": sort_words,
    "sort_numbers": partial(exercises.sorted_numbers, separator=SEPARATOR),
    "sort_down": partial(exercises.sorted_numbers, separator=SEPARATOR, descending=True),
    "bigger": exercises.two_numbers,
    "smaller": exercises.two_numbers,
    "is_bigger": is_bigger,
    "even": even,
    "next_number": neighbours,
    "previous_number": neighbours,
    "add": exercises.add,
    "odd_one": odd_one,
    "category": category,
    "is_kind": category,
    "is_not_kind": category,
    "which_kind": category,
    "opposite": WORDS.two_forms("opposites"),
    "plural": WORDS.forms("plurals", "word", "plural"),
    "singular": WORDS.forms("plurals", "word", "plural"),
    "past": WORDS.forms("pasts", "word", "past"),
    "rhyme": WORDS.two_forms("rhymes"),
    "synonym": WORDS.two_forms("synonyms"),
    "adjective_forms": WORDS.forms("comparatives", "word", "more", "most"),
    "proverb": WORDS.forms("proverbs", "start", "end"),
    "complete": WORDS.forms("starts", "start", "end"),
    "blank": partial(exercises.blank, words=WORDS, mark="___"),
    "sentence_with": sentence_with,
    "is_question": is_question,
    "add_question_mark": add_question_mark,
    "add_stop": sentence_forms,
    "polite": WORDS.forms("orders", "order", "request"),
    "negative": rewritten,
    "question_of": rewritten,
    "past_sentence": rewritten,
    "join": join,
    "day_after": exercises.neighbours_in(DAYS, "day"),
    "day_before": exercises.neighbours_in(DAYS, "day"),
    "month_after": exercises.neighbours_in(MONTHS, "month"),
    "month_before": exercises.neighbours_in(MONTHS, "month"),
    "series": partial(exercises.series, members=SERIES),
    "greeting": note,
    "thanks": note,
    "birthday": note,
    "invitation": note,
    "apology": note,
    "get_well": note,
    "congratulate": note,
    "story_of": WORDS.forms("heroes", "hero", "story"),
    "something_that": something_that,
    "yes_no_fact": WORDS.forms("facts", "question", "answer"),
    "how_to": WORDS.forms("how_tos", "task", "steps"),
    "translate_word": partial(exercises.translate_word, words=WORDS, languages=LANGUAGES, columns=(1, 2, 3)),
    "translate_back": partial(exercises.translate_word, words=WORDS, languages=LANGUAGES, columns=(1, 2, 3)),
    "which_language": WORDS.forms("languages", "text", "language"),
    "number_word": number_word,
    "word_number": number_word,
    "pick_number": exercises.pick_number,
    "choose": partial(exercises.choose, words=WORDS),
    "double": exercises.double,
    "half": exercises.double,
    "letter_after": alphabet,
    "letter_before": alphabet,
    "replace_word": replace_word,
    "put_together": put_together,
    "mood": WORDS.forms("moods", "text", "mood"),
    "word_class": WORDS.forms("word_classes", "word", "kind"),
    "pet_name": WORDS.one_of_each(animal="animals", name="animal_names"),
    "pattern": pattern,
    "poem": poem,
}
