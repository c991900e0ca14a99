"""Chinese exercises: COMPUTE has the function that fills the slots of each template in exercises.toml."""

from collections.abc import Callable
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
_OVERLAPPING = ({"动物", "鸟"}, {"动物", "昆虫"}, {"文具", "餐具"}, {"工具", "文具"}, {"工具", "餐具"})
# Kinds that one counts with this measure word; the others come in 种.
_MEASURES = dict.fromkeys(("国家", "城市", "节日", "身体部位", "数字", "季节"), "个") | {"家人": "位", "行星": "颗"}


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
    return {"n": number, "m": _measure(kind), "things": kind, "list": SEPARATOR.join(random.sample(words, n))}


def name_one(random: Random) -> Slots:
    kind, words = _kind(random)
    return {"m": _measure(kind), "things": kind, "word": random.choice(words)}


def _measure(kind: str) -> str:
    return _MEASURES.get(kind, "种")


def list_in_english(random: Random) -> Slots:
    kind, words = random.choice(list(read_table("zh", "english").items()))
    n = random.choice([2, 3, 3, 4])
    english = [forms[1] for forms in random.sample(words, n)]
    number = random.choice([str(n), _chinese(n)])
    return {"n": number, "m": _measure(kind), "things": kind, "list": ", ".join(english)}


def word_and_english(random: Random) -> Slots:
    kind, words = random.choice(list(read_table("zh", "english").items()))
    word, english = random.choice(words)
    return {"m": _measure(kind), "things": kind, "word": word, "english": english}


def characters(random: Random) -> Slots:
    text = WORDS.word(random, "words") if random.random() < 0.4 else WORDS.word(random, "sentences").rstrip("。")
    return {"text": text, "n": random.choice([str(len(text)), _chinese(len(text))]), "first": text[0], "last": text[-1]}


def _chinese(n: int) -> str:
    """The number in characters as one counts things with it, up to 99."""
    return "两" if n == 2 else _numeral(n)


def _numeral(n: int) -> str:
    """The number in characters as one calculates with it, up to 99."""
    if n <= 10:
        return NUMBERS[n]
    tens, ones = divmod(n, 10)
    return (NUMBERS[tens] if tens > 1 else "") + "十" + (NUMBERS[ones] if ones else "")


def _number_style(random: Random) -> Callable[[int], str]:
    """How all numbers of one exercise are written: in digits or in characters."""
    return str if random.random() < 0.5 else _chinese


def _written(write: Callable[[int], str], **numbers: int) -> Slots:
    return {slot: write(number) for slot, number in numbers.items()}


def sum_in_characters(random: Random) -> Slots:
    a, b = random.randint(1, 20), random.randint(1, 20)
    return _written(_numeral, a=a, b=b, sum=a + b)


def product_in_characters(random: Random) -> Slots:
    a, b = random.randint(1, 9), random.randint(1, 9)
    return _written(_numeral, a=a, b=b, product=a * b)


def sum_of_things(random: Random) -> Slots:
    a, b = random.randint(1, 20), random.randint(1, 12)
    numbers = _written(_number_style(random), a=a, b=b, sum=a + b)
    return numbers | {"item": WORDS.word(random, "items")}


def product_of_things(random: Random) -> Slots:
    a, b = random.randint(2, 9), random.randint(2, 9)
    numbers = _written(_number_style(random), a=a, b=b, product=a * b)
    return numbers | {"item": WORDS.word(random, "items")}


def hours_later(random: Random) -> Slots:
    a, b = random.randint(1, 8), random.randint(1, 4)
    return _written(_number_style(random), a=a, b=b, sum=a + b)


def age_later(random: Random) -> Slots:
    a, b = random.randint(3, 40), random.randint(2, 20)
    return _written(_number_style(random), a=a, b=b, sum=a + b)


def is_bigger(random: Random) -> Slots:
    a, b = random.sample(range(1, 100), 2)
    verdict = f"是的，{a}比{b}大。" if a > b else f"不，{a}比{b}小。"
    return {"a": str(a), "b": str(b), "answer": verdict}


def day_in_two(random: Random) -> Slots:
    """A day and those two days before and after it."""
    number = random.randrange(len(DAYS))
    return {"day": DAYS[number], "earlier": DAYS[number - 2], "later": DAYS[(number + 2) % len(DAYS)]}


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
    n = random.randint(1, random.choice([19, 99]))
    return {"digits": str(n), "name": _numeral(n)}


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
    "how_to": WORDS.forms("how_tos", "task", "steps"),
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
    "shortest_word": partial(exercises.extreme_word, draw=_several_words, separator=SEPARATOR, place=0),
    "list_in_english": list_in_english,
    "one_in_english": word_and_english,
    "word_in_english": word_and_english,
    "english_word": word_and_english,
    "phrase_in_english": WORDS.forms("phrases", "phrase", "english"),
    "phrase_in_chinese": WORDS.forms("phrases", "phrase", "english"),
    "plus_zh": sum_in_characters,
    "minus_zh": sum_in_characters,
    "times_zh": product_in_characters,
    "divide_zh": product_in_characters,
    "buy": product_of_things,
    "share": product_of_things,
    "left_over": sum_of_things,
    "get_more": sum_of_things,
    "age_later": age_later,
    "hours_later": hours_later,
    "is_bigger": is_bigger,
    "previous_number": next_number,
    "day_in_two": day_in_two,
    "day_two_ago": day_in_two,
    "greet": WORDS.one_of_each(),
    "who_wrote": WORDS.forms("works", "work", "author"),
    "dynasty": WORDS.forms("dynasties", "person", "dynasty"),
    "revolves": WORDS.forms("orbits", "body", "centre"),
    "revolves_around": WORDS.forms("orbits", "body", "centre"),
    "does_revolve": WORDS.forms("orbits", "body", "centre"),
    "what_is": WORDS.forms("what_is", "what", "is"),
    "use_of": WORDS.forms("uses", "tool", "use"),
    "tool_for": WORDS.forms("uses", "tool", "use"),
    "place_for": WORDS.forms("places_for", "act", "place"),
    "who_does": WORDS.forms("workers", "act", "who"),
    "can_do": WORDS.forms("abilities", "who", "act", "answer"),
    "quiz": WORDS.forms("quiz", "topic", "fact"),
    "quiz_right": WORDS.forms("quiz", "topic", "fact"),
    "knowledge": WORDS.forms("knowledge", "asks", "says"),
}
