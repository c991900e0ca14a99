"""Chinese exercises: COMPUTE has the function that fills the slots of each template in exercises.toml."""

from functools import partial
from random import Random

from model.bundled_recipe.talk import exercises
from model.bundled_recipe.talk.exercise_words import Compute, WordLists, read_table
from model.bundled_recipe.talk.templates import Slots

SEPARATOR = "、"
WORDS = WordLists("zh")
NUMBERS = "零一二三四五六七八九十"
DAYS = [f"星期{day}" for day in "一二三四五六日"]
MONTHS = [f"{month}月" for month in ("一", "二", "三", "四", "五", "六", "七", "八", "九", "十", "十一", "十二")]
SERIES = {
    "一年四季": "春天、夏天、秋天、冬天",
    "一个星期的七天": SEPARATOR.join(DAYS),
    "十二个月": SEPARATOR.join(MONTHS),
    "十二生肖": "鼠、牛、虎、兔、龙、蛇、马、羊、猴、鸡、狗、猪",
    "四个方向": "东、南、西、北",
    "从一到十的数字": SEPARATOR.join(NUMBERS[1:]),
    "彩虹的七种颜色": "红、橙、黄、绿、蓝、靛、紫",
    "人的五种感觉": "视觉、听觉、嗅觉、味觉、触觉",
}
LANGUAGES = ("中文", "英语", "德语", "法语")  # as the dictionary has them
TIMES = {"两": 2, "三": 3, "四": 4}
# Kinds of which one is part of the other: no contrast.
_OVERLAPPING = ({"动物", "鸟"}, {"文具", "餐具"})


def _kind(random: Random, unlike: str = "") -> tuple[str, list[str]]:
    """A kind of thing and its words, one that is not `unlike` and does not overlap with it."""
    while True:
        kind, words = random.choice(list(read_table("zh", "kinds").items()))
        if kind != unlike and {kind, unlike} not in _OVERLAPPING:
            return kind, [word for (word,) in words]


def _several_words(random: Random) -> list[str]:
    return random.sample(WORDS.words("words"), random.choice([3, 3, 4]))


def _number(random: Random, n: int) -> str:
    return NUMBERS[n] if n <= 10 and random.random() < 0.5 else str(n)


def count_to(random: Random) -> Slots:
    n = random.choice([*range(3, 21), 5, 10, 10])
    return {"n": _number(random, n), "numbers": exercises.counted(1, n, SEPARATOR)}


def count_down(random: Random) -> Slots:
    n = random.randint(3, 12)
    return {"n": _number(random, n), "numbers": exercises.counted(n, 1, SEPARATOR)}


def list_things(random: Random) -> Slots:
    kind, words = _kind(random)
    n = random.choice([2, 3, 3, 3, 4, 5])
    number = random.choice([str(n), "两" if n == 2 else NUMBERS[n]])
    return {"n": number, "things": kind, "list": SEPARATOR.join(random.sample(words, n))}


def name_one(random: Random) -> Slots:
    kind, words = _kind(random)
    return {"things": kind, "word": random.choice(words)}


def characters(random: Random) -> Slots:
    text = WORDS.word(random, "words") if random.random() < 0.4 else WORDS.word(random, "sentences").rstrip("。")
    return {"text": text, "n": random.choice([str(len(text)), _chinese(len(text))]), "first": text[0], "last": text[-1]}


def _chinese(n: int) -> str:
    """The number in characters as one counts things with it, up to 19."""
    if n == 2:
        return "两"
    return NUMBERS[n] if n <= 10 else "十" + NUMBERS[n - 10]


def reverse(random: Random) -> Slots:
    return exercises.reversed_words(_several_words(random)[:3], SEPARATOR)


def even(random: Random) -> Slots:
    a = random.randint(1, 99)
    return {"a": str(a), "kind": random.choice(["奇数", "单数"] if a % 2 else ["偶数", "双数"])}


def next_number(random: Random) -> Slots:
    a = random.randint(1, 98)
    return {"a": str(a), "next": str(a + 1)}


def odd_one(random: Random) -> Slots:
    kind, words = _kind(random)
    odd = random.choice(_kind(random, unlike=kind)[1])
    same = random.sample(words, random.choice([2, 3, 3]))
    return exercises.odd_one(random, kind, same, odd, SEPARATOR)


def category(random: Random) -> Slots:
    kind, words = _kind(random)
    return {"word": random.choice(words), "kind": kind, "kind2": _kind(random, unlike=kind)[0]}


def complete(random: Random) -> Slots:
    start, end = WORDS.entry(random, "starts")
    return {"start": start, "end": end.rstrip("。")}


def is_question(random: Random) -> Slots:
    asks = random.random() < 0.5
    text = WORDS.word(random, "questions" if asks else "sentences")
    return {"text": text, "answer": "是的，这是问句。" if asks else "不是，这是陈述句。"}


def add_mark(random: Random) -> Slots:
    sentence = WORDS.word(random, random.choice(["questions", "sentences"]))
    return {"bare": sentence[:-1], "sentence": sentence}


def rewritten(random: Random) -> Slots:
    """A positive sentence with its negation and its question."""
    positive, negative, question = WORDS.entry(random, "positives")
    return {"positive": positive + "。", "negative": negative + "。", "question": question + "？"}


def note(random: Random) -> Slots:
    """To whom a note goes, and for what."""
    whom, called = WORDS.entry(random, "people")
    what = WORDS.one_of_each(festival="festivals", gift="gifts", because="reasons", event="events")(random)
    return what | {"whom": whom, "called": called, "day": random.choice(DAYS)}


def number_word(random: Random) -> Slots:
    n = random.randint(1, 19)
    return {"digits": str(n), "name": "二" if n == 2 else _chinese(n)}


def pattern(random: Random) -> Slots:
    return exercises.pattern(random, _several_words(random)[: random.choice([2, 3])], SEPARATOR)


def put_together(random: Random) -> Slots:
    parts = WORDS.entry(random, "mixed")
    return {"mixed": SEPARATOR.join(random.sample(parts, len(parts))), "sentence": "".join(parts) + "。"}


# By the name of the template.
COMPUTE: dict[str, Compute] = {
    "repeat": WORDS.forms("sentences", "sentence"),
    "say": WORDS.forms("words", "word"),
    "say_times": partial(exercises.say_times, words=WORDS, times=TIMES, separator="，"),
    "count_to": count_to,
    "count_from": partial(exercises.count_from, separator=SEPARATOR),
    "count_down": count_down,
    "list_things": list_things,
    "name_one": name_one,
    "sentence_with": WORDS.forms("sentence_of", "word", "sentence"),
    "word_with": WORDS.forms("compounds", "char", "compound"),
    "opposite": WORDS.two_forms("opposites"),
    "synonym": WORDS.two_forms("synonyms"),
    "measure": WORDS.forms("measures", "word", "measure"),
    "characters_in": characters,
    "first_character": characters,
    "last_character": characters,
    "longest_word": partial(exercises.extreme_word, draw=_several_words, separator=SEPARATOR, place=-1),
    "reverse": reverse,
    "sort_numbers": partial(exercises.sorted_numbers, separator=SEPARATOR),
    "sort_down": partial(exercises.sorted_numbers, separator=SEPARATOR, descending=True),
    "bigger": exercises.two_numbers,
    "smaller": exercises.two_numbers,
    "even": even,
    "next_number": next_number,
    "add": exercises.add,
    "odd_one": odd_one,
    "category": category,
    "is_kind": category,
    "is_not_kind": category,
    "which_kind": category,
    "proverb": WORDS.forms("proverbs", "start", "end"),
    "complete": complete,
    "blank": partial(exercises.blank, words=WORDS, mark="（）"),
    "is_question": is_question,
    "add_mark": add_mark,
    "polite": WORDS.forms("orders", "order"),
    "negative": rewritten,
    "question_of": rewritten,
    "join": WORDS.forms("joins", "one", "two", "joined"),
    "day_after": exercises.neighbours_in(DAYS, "day"),
    "day_before": exercises.neighbours_in(DAYS, "day"),
    "month_after": exercises.neighbours_in(MONTHS, "month"),
    "series": partial(exercises.series, members=SERIES),
    "birthday": note,
    "festival": note,
    "thanks": note,
    "apology": note,
    "invitation": note,
    "get_well": note,
    "story_of": WORDS.forms("heroes", "hero", "story"),
    "something_that": WORDS.forms("qualities", "quality", "thing"),
    "translate_word": partial(exercises.translate_word, words=WORDS, languages=LANGUAGES, columns=(1, 1, 1, 2, 3)),
    "translate_back": partial(exercises.translate_word, words=WORDS, languages=LANGUAGES, columns=(1, 1, 1, 2, 3)),
    "number_word": number_word,
    "word_number": number_word,
    "pick_number": exercises.pick_number,
    "choose": partial(exercises.choose, words=WORDS),
    "double": exercises.double,
    "half": exercises.double,
    "mood": WORDS.forms("moods", "text", "mood"),
    "pet_name": WORDS.one_of_each(animal="animals", name="animal_names"),
    "pattern": pattern,
    "put_together": put_together,
}
