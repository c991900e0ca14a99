"""Exercises that ask about a text of one or two sentences."""

from random import Random

from model.bundled_recipe.chat_rows import capitalized
from model.bundled_recipe.talk.english.basics import DAYS, NUMBERS, WORDS, with_article
from model.bundled_recipe.talk.exercise_words import Compute, read_table
from model.bundled_recipe.talk.templates import Slots

_HOURS = NUMBERS[1:]
_JOBS = read_table("en", "countable")["job/jobs"]
_CITIES = read_table("en", "uncountable")["city/cities"]
_POSSESSIVE = {"he": "his", "she": "her"}


def _asked(random: Random, text: str, *questions: tuple[str, str, str]) -> Slots:
    """The text with one of the questions: a question, its short answer and its whole one."""
    question, answer, full = random.choice(questions)
    return {"text": text, "question": question, "answer": answer, "full": full}


def _two_names(random: Random) -> tuple[str, str]:
    one, two = random.sample(WORDS.words("names"), 2)
    return one, two


def _painted(random: Random, thing: str) -> tuple[str, str]:
    paint = WORDS.word(random, "paints")
    return paint, with_article(f"{paint} {thing}")


def belonging(random: Random) -> Slots:
    """Tom has a red ball."""
    name, thing = WORDS.word(random, "names"), WORDS.word(random, "belongings")
    paint, whole = _painted(random, thing)
    has = random.choice(["has", "has", "buys", "finds", "sees"])
    plain = {"has": "have", "buys": "buy", "finds": "find", "sees": "see"}[has]
    full = f"{name} {has} {whole}."
    return _asked(
        random,
        full,
        (f"What colour is the {thing}?", paint, f"The {thing} is {paint}."),
        (f"Which colour does the {thing} have?", paint, f"The {thing} is {paint}."),
        (f"What does {name} {plain}?", whole, full),
        (f"Who {has} {whole}?", name, f"{name} {has} {whole}."),
        (f"Who {has} the {thing}?", name, f"{name} {has} the {thing}."),
    )


def two_belongings(random: Random) -> Slots:
    """Tom has a red ball. Anna has a blue kite."""
    one, two = _two_names(random)
    thing, thing2 = random.sample(WORDS.words("belongings"), 2)
    (paint, whole), (paint2, whole2) = _painted(random, thing), _painted(random, thing2)
    link = random.choice([". ", " and ", ", but "])
    return _asked(
        random,
        f"{one} has {whole}{link}{two} has {whole2}.",
        (f"Who has the {thing}?", one, f"{one} has the {thing}."),
        (f"Who has the {thing2}?", two, f"{two} has the {thing2}."),
        (f"What does {one} have?", whole, f"{one} has {whole}."),
        (f"What does {two} have?", whole2, f"{two} has {whole2}."),
        (f"What colour is the {thing}?", paint, f"The {thing} is {paint}."),
        (f"What colour is the {thing2}?", paint2, f"The {thing2} is {paint2}."),
    )


def ages(random: Random) -> Slots:
    """Anna is 7 years old. Ben is 9."""
    one, two = _two_names(random)
    age, age2 = random.sample(range(3, 80), 2)
    older, younger = (one, two) if age > age2 else (two, one)
    return _asked(
        random,
        random.choice(
            [f"{one} is {age} years old. {two} is {age2}.", f"{one} is {age} and {two} is {age2} years old."]
        ),
        (f"How old is {one}?", str(age), f"{one} is {age} years old."),
        (f"How old is {two}?", str(age2), f"{two} is {age2} years old."),
        ("Who is older?", older, f"{older} is older than {younger}."),
        ("Who is younger?", younger, f"{younger} is younger than {older}."),
    )


def person(random: Random) -> Slots:
    """Maria is a cook and lives in Rome."""
    name, pronoun = WORDS.entry(random, "names")
    job, place = with_article(random.choice(_JOBS)[0]), random.choice(_CITIES)[0]
    he = capitalized(pronoun)
    text = f"{name} is {job} and lives in {place}.", f"{name} lives in {place}. {he} is {job}."
    return _asked(
        random,
        random.choice(text),
        (f"Where does {name} live?", f"in {place}", f"{name} lives in {place}."),
        (f"In which city does {name} live?", place, f"{name} lives in {place}."),
        (f"What is {_POSSESSIVE[pronoun]} job?", job, f"{name} is {job}."),
        (f"What does {name} do for a living?", f"{pronoun} is {job}", f"{name} is {job}."),
        (f"Who lives in {place}?", name, f"{name} lives in {place}."),
        (f"Who is {job}?", name, f"{name} is {job}."),
    )


def place(random: Random) -> Slots:
    """The key is on the table. The ball is under the bed."""
    (thing, plain), (thing2, plain2) = random.sample(WORDS.entries("things_put"), 2)
    where, where2 = random.sample(WORDS.words("places_put"), 2)
    one, two = f"{thing} is {where}.", f"{thing2} is {where2}."
    questions = [(f"Where is the {plain}?", where, one), (f"What is {where}?", f"the {plain}", one)]
    if random.random() < 0.6:
        one = f"{one} {two}"
        questions += [(f"Where is the {plain2}?", where2, two), (f"What is {where2}?", f"the {plain2}", two)]
    return _asked(random, one, *questions)


def shopping(random: Random) -> Slots:
    """Leo buys three apples and two pears."""
    name = WORDS.word(random, "names")
    things, things2 = random.sample(WORDS.words("shopping"), 2)
    a, b = random.randint(2, 6), random.randint(2, 6)
    has = random.choice(["has", "has", "buys"])
    plain = {"has": "have", "buys": "buy"}[has]
    return _asked(
        random,
        f"{name} {has} {NUMBERS[a]} {things} and {NUMBERS[b]} {things2}.",
        (f"How many {things} does {name} {plain}?", NUMBERS[a], f"{name} {has} {NUMBERS[a]} {things}."),
        (f"How many {things2} does {name} {plain}?", NUMBERS[b], f"{name} {has} {NUMBERS[b]} {things2}."),
        (f"What does {name} {plain}?", f"{things} and {things2}", f"{name} {has} {things} and {things2}."),
        ("How many things are there together?", NUMBERS[a + b], f"{capitalized(NUMBERS[a + b])} things together."),
    )


def times(random: Random) -> Slots:
    """The film starts at eight. / The film starts on Monday at eight."""
    event, verb, plain = WORDS.entry(random, "timed")
    hour, day = random.choice(_HOURS), random.choice(DAYS)
    low = event[0].lower() + event[1:]
    if random.random() < 0.5:
        full = f"{event} {verb} at {hour} o'clock."
        return _asked(
            random,
            full,
            (f"When does {low} {plain}?", f"at {hour} o'clock", full),
            (f"At what time does {low} {plain}?", f"at {hour} o'clock", full),
            (f"What {verb} at {hour} o'clock?", low, full),
        )
    return _asked(
        random,
        f"{event} {verb} on {day} at {hour} o'clock.",
        (f"On which day does {low} {plain}?", f"on {day}", f"{event} {verb} on {day}."),
        (f"At what time does {low} {plain}?", f"at {hour} o'clock", f"{event} {verb} at {hour} o'clock."),
        (f"What {verb} on {day}?", low, f"{event} {verb} on {day}."),
    )


def likings(random: Random) -> Slots:
    """Nina likes tea, but Omar likes coffee."""
    one, two = _two_names(random)
    this, that = random.sample(WORDS.words("likings"), 2)
    texts = (f"{one} likes {this}, but {two} likes {that}.", f"{one} likes {this}. {two} prefers {that}.")
    return _asked(
        random,
        random.choice(texts),
        (f"Who likes {this}?", one, f"{one} likes {this}."),
        (f"Who likes {that}?", two, f"{two} likes {that}."),
        (f"What does {one} like?", this, f"{one} likes {this}."),
        (f"What does {two} like?", that, f"{two} likes {that}."),
    )


def reasons(random: Random) -> Slots:
    """Eva was sad because she lost her key."""
    name, pronoun = WORDS.entry(random, "names")
    did, hers, his = WORDS.entry(random, "why")
    reason = hers if pronoun == "she" else his
    full = f"{name} {did} because {reason}."
    why = f"Why was {name} {did.removeprefix('was ')}?" if did.startswith("was ") else f"{name} {did}. Why?"
    return _asked(random, full, (why, f"because {reason}", full), (f"Who {did}?", name, f"{name} {did}."))


def deeds(random: Random) -> Slots:
    """Tom plays the piano."""
    name = WORDS.word(random, "names")
    now, plain, past, rest = WORDS.entry(random, "verb_phrases")
    if random.random() < 0.5:
        text, verb, does = f"{name} {now} {rest}.", now, "does"
    else:
        text, verb, does = f"{name} {past} {rest}.", past, "did"
    return _asked(
        random,
        text,
        (f"Who {verb} {rest}?", name, text),
        (f"{capitalized(does)} {name} {plain} {rest}?", "yes", f"Yes, {text}"),
        (f"What {does} {name} do?", f"{name} {verb} {rest}", text),
    )


def yes_no(random: Random) -> Slots:
    """A text with a question that is answered by yes or no."""
    one, two = _two_names(random)
    thing = WORDS.word(random, "belongings")
    paint, wrong = random.sample(WORDS.words("paints"), 2)
    whole = with_article(f"{paint} {thing}")
    has = f"{one} has {whole}."
    return _asked(
        random,
        has,
        (f"Does {one} have {with_article(thing)}?", "yes", f"Yes, {has}"),
        (f"Is the {thing} {paint}?", "yes", f"Yes, the {thing} is {paint}."),
        (f"Is the {thing} {wrong}?", "no", f"No, the {thing} is {paint}."),
        (f"Does {two} have the {thing}?", "no", f"No, {one} has the {thing}."),
    )


_TEXTS = (belonging, two_belongings, ages, person, place, shopping, times, likings, reasons, deeds, yes_no)


def reading(random: Random) -> Slots:
    """A text of any of these kinds with a question."""
    return random.choice(_TEXTS)(random)


COMPUTE: dict[str, Compute] = {"reading": reading}
