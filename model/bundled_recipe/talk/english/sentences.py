"""Exercises that change a sentence, and that compare things."""

from random import Random

from model.bundled_recipe.chat_rows import capitalized
from model.bundled_recipe.talk.english.basics import WORDS, sentence, with_article
from model.bundled_recipe.talk.exercise_words import Compute
from model.bundled_recipe.talk.templates import Slots

# By the list of things: what to ask with, and the answer's word; the list goes from little to much.
_SCALES = {
    "bigness": ("bigger", "smaller", "biggest"),
    "speeds": ("faster", "slower", "fastest"),
    "weights": ("heavier", "lighter", "heaviest"),
    "lengths": ("longer", "shorter", "longest"),
    "heights": ("higher", "lower", "highest"),
    "warmth": ("hotter", "colder", "hottest"),
    "ages": ("older", "younger", "oldest"),
    "prices": ("more expensive", "cheaper", "most expensive"),
}
_UNCOUNTED = ("milk from the fridge", "ice", "bath water", "boiling water", "fire")


def tenses(random: Random) -> Slots:
    """A sentence in the present, the past and the future, and with a wish."""
    name, pronoun = WORDS.entry(random, "names")
    now, plain, past, rest = WORDS.entry(random, "verb_phrases")
    return {
        "present": f"{name} {now} {rest}.",
        "past": f"{name} {past} {rest}.",
        "future": f"{name} will {plain} {rest}.",
        "wish": f"{name} wants to {plain} {rest}.",
        "ability": f"{name} can {plain} {rest}.",
        "pronoun": f"{capitalized(pronoun)} {now} {rest}.",
        "mine": f"I {plain} {rest}.",
        "ours": f"We {plain} {rest}.",
        "name": name,
        "he": pronoun,
    }


def he_she(random: Random) -> Slots:
    """A sentence about him or her, and the same about the other."""
    old, new = random.sample(["he", "she"], 2)
    if random.random() < 0.3:
        end = f"is {WORDS.word(random, 'states')}"
    else:
        now, _, past, rest = WORDS.entry(random, "verb_phrases")
        end = f"{random.choice([now, past])} {rest}"
    return {"old": old, "new": new, "sentence": f"{capitalized(old)} {end}.", "changed": f"{capitalized(new)} {end}."}


def many(random: Random) -> Slots:
    """A sentence about one thing, and about several."""
    singular, plural = random.choice([forms for forms in WORDS.entries("plurals") if forms[0] != forms[1]])
    rest = random.choice(["new", "old", "here", "nice", "big", "small", "lovely", "in the picture", "very old", "gone"])
    one, more = f"The {singular} is {rest}.", f"The {plural} are {rest}."
    return {"singular": one, "plural": more}


def sloppy(random: Random) -> Slots:
    """A sentence, and the same without its capital and its full stop."""
    text = sentence(random)
    return {"sentence": text, "sloppy": text[0].lower() + text[1:].rstrip("."), "bare": text.rstrip(".")}


def longer(random: Random) -> Slots:
    """A sentence, and the same with a time at its end."""
    text, time = (
        sentence(random),
        random.choice(["today", "with a friend", "again", "after lunch", "with great joy", "as always"]),
    )
    return {"sentence": text, "time": time, "longer": f"{text.rstrip('.')} {time}."}


def shorter(random: Random) -> Slots:
    """A sentence with and without "very" or the like."""
    who, state = WORDS.word(random, "subjects"), random.choice(["tired", "happy", "kind", "old", "tall", "busy", "sad"])
    adverb = random.choice(["very", "really", "so", "quite"])
    return {"adverb": adverb, "sentence": f"{who} is {adverb} {state}.", "changed": f"{who} is {state}."}


def true_false(random: Random) -> Slots:
    true, false = WORDS.entry(random, "statements")
    is_true = random.random() < 0.5
    yes = f"Yes, that is true. {true}." if is_true else f"No, that is false. {true}."
    return {"statement": true if is_true else false, "word": "true" if is_true else "false", "yes": yes, "fact": true}


def _named(thing: str) -> str:
    if thing in _UNCOUNTED:
        return thing
    return "an hour" if thing == "hour" else with_article(thing)


def compare(random: Random) -> Slots:
    """Two things of which one is bigger, faster or the like, and three of which one is the most so."""
    name, (more, less, most) = random.choice(list(_SCALES.items()))
    things = list(map(_named, WORDS.words(name)))
    low, middle, high = sorted(random.sample(range(len(things)), 3))
    pair = random.sample([things[low], things[high]], 2)
    three = random.sample([things[low], things[middle], things[high]], 3)
    way = random.choice([(more, things[high], things[low]), (less, things[low], things[high])])
    is_so = pair[0] == way[1]
    claim = f"{pair[0]} is {way[0]} than {pair[1]}"
    return {
        "a": pair[0],
        "b": pair[1],
        "more": way[0],
        "winner": way[1],
        "loser": way[2],
        "three": f"{three[0]}, {three[1]} or {three[2]}",
        "most": most,
        "top": things[high],
        "yes_no": f"Yes, {claim}." if is_so else f"No, {way[1]} is {way[0]} than {way[2]}.",
    }


COMPUTE: dict[str, Compute] = {
    "future_sentence": tenses,
    "present_sentence": tenses,
    "wish_sentence": tenses,
    "can_sentence": tenses,
    "pronoun_for_name": tenses,
    "about_me": tenses,
    "about_us": tenses,
    "he_she": he_she,
    "plural_sentence": many,
    "singular_sentence": many,
    "correct_sentence": sloppy,
    "quote_sentence": sloppy,
    "add_words": longer,
    "remove_word": shorter,
    "true_false": true_false,
    "is_it_true": true_false,
    "compare": compare,
    "most_of_three": compare,
    "is_it_more": compare,
    "contract": WORDS.forms("contractions", "long", "short"),
    "expand": WORDS.forms("contractions", "long", "short"),
}
